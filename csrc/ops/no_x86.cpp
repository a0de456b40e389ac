#if !defined(__x86_64__)
#include <stdexcept>

#include "ops/rle.h"
#include "ops/semantic_map.h"

// What the linker asks for where the machine has none of it. isa() is scalar there, so nothing comes here.
namespace visdeploy {
namespace {

[[noreturn]] void absent() { throw std::logic_error("this machine has no x86 instruction set"); }

}  // namespace

namespace avx2 {
std::string encode(const Tensor&) { absent(); }
std::string encode_above(const Tensor&, float) { absent(); }
void decode(const Encoded&, Order, std::uint8_t*) { absent(); }
std::string encode_logits(const Tensor&, Size, float) { absent(); }
SemanticMap semantic_map(const Tensor&, Size, std::uint8_t*) { absent(); }
}  // namespace avx2
namespace avx512 {
std::pair<std::size_t, std::size_t> read_changes(std::string_view, std::size_t, std::int64_t*, std::size_t) {
  absent();
}
std::string encode(const Tensor&) { absent(); }
std::string encode_above(const Tensor&, float) { absent(); }
void decode(const Encoded&, Order, std::uint8_t*) { absent(); }
std::string encode_logits(const Tensor&, Size, float) { absent(); }
SemanticMap semantic_map(const Tensor&, Size, std::uint8_t*) { absent(); }
}  // namespace avx512
}  // namespace visdeploy
#endif
