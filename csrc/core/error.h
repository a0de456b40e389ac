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
