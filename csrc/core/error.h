#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace visdeploy {

// What Python sees as visdeploy.errors.InputError.
class InputError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

// visdeploy.errors.UnsupportedError: what is asked for works, but not here.
class UnsupportedError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// visdeploy.errors.CudaError: a CUDA call failed.
class CudaError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Joins its arguments into one message.
template <class... Parts>
std::string message(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

}  // namespace visdeploy

// VD_CHECK(rank == 2, "[encode] mask: expected 2-D, got ", rank, "-D")
#define VD_CHECK(condition, ...)                                                        \
  do {                                                                                  \
    if (!(condition)) throw ::visdeploy::InputError(::visdeploy::message(__VA_ARGS__)); \
  } while (false)
