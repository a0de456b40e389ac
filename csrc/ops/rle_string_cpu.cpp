#include <algorithm>
#include <cstring>

#include "ops/rle.h"

namespace visdeploy::cpu {
namespace {

// A bit for each of 64 characters, set where it ends a number; and whether any is not one of COCO's.
std::uint64_t ends_of_numbers(const char* text, bool& foreign) {
  constexpr std::uint64_t kOnes = 0x0101010101010101;
  std::uint64_t ends = 0, strange = 0;
  for (std::size_t i = 0; i < 64; i += 8) {
    std::uint64_t word;
    std::memcpy(&word, text + i, sizeof(word));
    // '0' to 'o' move to 0x80 to 0xbf, and nothing else does that has no top bit of its own.
    const std::uint64_t moved = (word & 0x7f * kOnes) + 0x50 * kOnes;
    strange |= (word & 0x80 * kOnes) | ((moved & 0xc0 * kOnes) ^ 0x80 * kOnes);
    ends |= (((~moved & 0x20 * kOnes) >> 5) * 0x0102040810204080) >> 56 << i;
  }
  foreign = strange != 0;
  return ends;
}

// The lowest five bits of each byte side by side: to 4 x 10 bits, to 2 x 20, to 40.
std::uint64_t low_bits(std::uint64_t bytes) {
  bytes = (bytes & 0x001f001f001f001f) | (bytes & 0x1f001f001f001f00) >> 3;
  bytes = (bytes & 0x000003ff000003ff) | (bytes & 0x03ff000003ff0000) >> 6;
  return (bytes & 0xfffff) | (bytes & 0x000fffff00000000) >> 12;
}

}  // namespace

#include "ops/read_counts.h"

}  // namespace visdeploy::cpu
