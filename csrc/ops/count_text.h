#pragma once

#include <cstdint>
#include <cstring>

// COCO's text of one count.
namespace visdeploy {

// What COCO writes for a count, from the fourth on: its difference to the count two places before. `end` points at the
// transition that ends the run; those before it tell where the runs began.
inline std::int64_t count_change(const std::uint32_t* end) {
  return static_cast<std::int64_t>(end[0] - end[-1]) - static_cast<std::int64_t>(end[-2] - end[-3]);
}

// Appends x and returns the new end; writes eight bytes, of which it uses at most that many. Groups of five bits with
// the lowest first: 0x20 says that more follow, and the top bit of the last one is the sign.
inline char* append_count(std::int64_t x, char* out) {
  const auto bits = static_cast<std::uint64_t>(x);
  // One bit more than the magnitude needs, for the sign; never zero, so that it may be counted.
  const int length = 65 - __builtin_clzll(static_cast<std::uint64_t>(x ^ (x >> 63)) | 1);
  const int groups = (length + 4) / 5;
  // Five bits to a byte, by halving: 40 bits, more than kMaxPixels needs, to 2 x 20, to 4 x 10, to 8 x 5.
  std::uint64_t spread = (bits & 0xfffff) | (bits & 0xfffff00000) << 12;
  spread = (spread & 0x000003ff000003ff) | (spread & 0x000ffc00000ffc00) << 6;
  spread = (spread & 0x001f001f001f001f) | (spread & 0x03e003e003e003e0) << 3;
  const std::uint64_t more = 0x2020202020202020 & ((std::uint64_t{1} << (8 * (groups - 1))) - 1);
  spread = (spread | more) + 0x3030303030303030;
  std::memcpy(out, &spread, sizeof(spread));
  return out + groups;
}

}  // namespace visdeploy
