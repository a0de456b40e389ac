#include "ops/deinterleave.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

namespace visdeploy {
namespace {

// Exchanges the two off-diagonal squares, of `side` bytes, in every square of twice that size.
void swap_squares(std::uint64_t* rows, int side, std::uint64_t low_halves) {
  for (int i = 0; i < 8; ++i) {
    if (i & side) continue;
    const std::uint64_t change = (rows[i] >> (8 * side) ^ rows[i + side]) & low_halves;
    rows[i] ^= change << (8 * side);
    rows[i + side] ^= change;
  }
}

// Eight bytes of eight pixels, `step` apart, to eight bytes of eight masks.
void mirror(const std::uint8_t* source, std::int64_t step, std::uint8_t* out, std::int64_t next) {
  std::uint64_t rows[8];
  for (int i = 0; i < 8; ++i) std::memcpy(rows + i, source + i * step, 8);
  swap_squares(rows, 4, 0x00000000ffffffff);
  swap_squares(rows, 2, 0x0000ffff0000ffff);
  swap_squares(rows, 1, 0x00ff00ff00ff00ff);
  for (int i = 0; i < 8; ++i) std::memcpy(out + i * next, rows + i, 8);
}

}  // namespace

bool interleaved(const Tensor& masks, int items_axis) {
  if (masks.rank() != 3 || masks.shape[static_cast<std::size_t>(items_axis)] < 8) return false;
  for (int axis = 0; axis < 3; ++axis) {
    const std::int64_t stride = std::abs(masks.strides[static_cast<std::size_t>(axis)]);
    if (axis == items_axis ? masks.strides[static_cast<std::size_t>(axis)] != 1 : stride < 8) return false;
  }
  return true;
}

Deinterleaved deinterleave(const Tensor& masks, int items_axis, std::int64_t first) {
  const Tensor one = masks.select(items_axis, first);
  const std::int64_t n = std::min(kInterleaved, masks.shape[static_cast<std::size_t>(items_axis)] - first);
  const bool rows = std::abs(one.strides[1]) <= std::abs(one.strides[0]);
  const std::size_t along = rows ? 1 : 0;
  const std::int64_t length = one.shape[along], lines = one.shape[1 - along], step = one.strides[along];
  // An odd number of cache lines, lest all masks compete for the same few places in the cache.
  const std::int64_t next = ((length * lines + 63) / 64 | 1) * 64;
  Deinterleaved result{std::unique_ptr<std::uint8_t[]>(new std::uint8_t[static_cast<std::size_t>(n * next)]), {}};
  for (std::int64_t line = 0; line < lines; ++line) {
    const auto* source = one.at<std::uint8_t>(line * one.strides[1 - along]);
    std::uint8_t* out = result.memory.get() + line * length;
    std::int64_t i = 0;
    for (; i + 8 <= length; i += 8) {
      std::int64_t k = 0;
      for (; k + 8 <= n; k += 8) mirror(source + i * step + k, step, out + k * next + i, next);
      for (; k < n; ++k) {
        for (std::int64_t j = i; j < i + 8; ++j) out[k * next + j] = source[j * step + k];
      }
    }
    for (; i < length; ++i) {
      for (std::int64_t k = 0; k < n; ++k) out[k * next + i] = source[i * step + k];
    }
  }
  for (std::int64_t k = 0; k < n; ++k) {
    Tensor mask = one;
    mask.data = result.memory.get() + k * next;
    mask.strides[along] = 1;
    mask.strides[1 - along] = length;
    result.masks.push_back(std::move(mask));
  }
  return result;
}

}  // namespace visdeploy
