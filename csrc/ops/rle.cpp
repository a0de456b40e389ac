#include "ops/rle.h"

#include <algorithm>

#include "core/device.h"
#include "core/error.h"
#include "core/isa.h"
#include "core/parallel.h"
#include "ops/deinterleave.h"

namespace visdeploy {
namespace {

std::string encode_one(const Tensor& mask) {
  if (isa() == Isa::kAvx512) return avx512::encode(mask);
  if (isa() == Isa::kAvx2) return avx2::encode(mask);
  return cpu::encode(mask);
}

void decode_one(const Encoded& mask, Order order, std::uint8_t* out) {
  if (isa() == Isa::kAvx512) return avx512::decode(mask, order, out);
  if (isa() == Isa::kAvx2) return avx2::decode(mask, order, out);
  cpu::decode(mask, order, out);
}

// The axis that counts masks; those of rank 2 have none.
int check_encode(const Tensor& masks, int axis) {
  const int rank = masks.rank();
  VD_CHECK(masks.dtype == DType::kUint8 || masks.dtype == DType::kBool, "[encode] mask: expected uint8 or bool, got ",
           name(masks.dtype));
  VD_CHECK(rank == 2 || rank == 3, "[encode] mask: expected 2-D or 3-D, got ", rank, "-D");
  VD_CHECK(axis == 0 || axis == -1, "[encode] axis: expected 0 or -1, got ", axis);
  const int items_axis = axis == 0 ? 0 : rank - 1;
  const std::size_t y = rank == 3 && items_axis == 0 ? 1 : 0;
  const bool none = rank == 3 && masks.shape[static_cast<std::size_t>(items_axis)] == 0;
  VD_CHECK(none || masks.shape[y] * masks.shape[y + 1] <= kMaxPixels, "[encode] mask: at most ", kMaxPixels,
           " pixels, got shape ", masks.shape_text());
  return items_axis;
}

// Masks as (N, H, W).
Tensor stacked(Tensor masks, int items_axis) {
  if (masks.rank() == 2) return masks.insert(0);
  std::rotate(masks.shape.begin(), masks.shape.begin() + items_axis, masks.shape.end());
  std::rotate(masks.strides.begin(), masks.strides.begin() + items_axis, masks.strides.end());
  return masks;
}

}  // namespace

std::vector<std::string> encode(const Tensor& masks, int axis, int num_threads) {
  const int items_axis = check_encode(masks, axis), rank = masks.rank();
  if (const auto stream = device_of("encode", {{"mask", &masks}})) {
    const Tensor stack = stacked(masks, items_axis);
    return cuda::read_texts("encode", stack.shape[0], stack.shape[1], stack.shape[2], *stream,
                            [&](const TextsOut& out) { cuda::encode(stack, *stream, out); });
  }
  const std::int64_t n = rank == 3 ? masks.shape[static_cast<std::size_t>(items_axis)] : 1;
  std::vector<std::string> texts(static_cast<std::size_t>(n));
  const double work = static_cast<double>(masks.size()) / 12;
  const int used_threads = choose_threads(num_threads, work);
  if (interleaved(masks, items_axis)) {
    parallel_for((n + kInterleaved - 1) / kInterleaved, used_threads, [&](std::int64_t group) {
      const Deinterleaved some = deinterleave(masks, items_axis, group * kInterleaved);
      std::transform(some.masks.begin(), some.masks.end(), texts.begin() + group * kInterleaved, encode_one);
    });
    return texts;
  }
  parallel_for(n, used_threads, [&](std::int64_t i) {
    texts[static_cast<std::size_t>(i)] = encode_one(rank == 3 ? masks.select(items_axis, i) : masks);
  });
  return texts;
}

void encode(const Tensor& masks, int axis, const TextsOut& out) {
  const int items_axis = check_encode(masks, axis);
  const auto stream = device_of("encode", {{"mask", &masks}});
  VD_CHECK(stream, "[encode] out: only for masks on a CUDA device, got masks in CPU memory");
  cuda::encode(stacked(masks, items_axis), *stream, out);
}

void check_decode(const std::vector<Encoded>& masks) {
  for (const Encoded& mask : masks) {
    VD_CHECK(mask.pixels() <= kMaxPixels, "[decode] size: at most ", kMaxPixels, " pixels, got [", mask.height, ", ",
             mask.width, "]");
    VD_CHECK(mask.height == masks[0].height && mask.width == masks[0].width,
             "[decode] size: expected the same for all, got [", masks[0].height, ", ", masks[0].width, "] and [",
             mask.height, ", ", mask.width, "]");
  }
}

void decode(const std::vector<Encoded>& masks, Order order, std::uint8_t* out, int num_threads) {
  const auto n = static_cast<std::int64_t>(masks.size());
  const double work = masks.empty() ? 0 : static_cast<double>(n * masks[0].pixels()) / 16;
  parallel_for(n, choose_threads(num_threads, work), [&](std::int64_t i) {
    const Encoded& mask = masks[static_cast<std::size_t>(i)];
    decode_one(mask, order, out + i * mask.pixels());
  });
}

std::int64_t area(const Encoded& mask) {
  std::int64_t sum = 0;
  std::ptrdiff_t first = 1;  // of foreground in the block
  Counts counts(mask);
  for (auto block = counts.next(); block.begin != block.end; block = counts.next()) {
    const std::ptrdiff_t n = block.end - block.begin;
    for (std::ptrdiff_t i = first; i < n; i += 2) sum += block.begin[i];
    first = (first + n) % 2;
  }
  return sum;
}

void to_bbox(const Encoded& mask, double* xywh) {
  const std::int64_t height = mask.height;
  std::int64_t left = -1, top = height, right = -1, bottom = -1;
  // A column and the position of its first pixel, moved on as the runs are.
  std::int64_t x = 0, start = 0, position = 0;
  const auto move_to = [&](std::int64_t pixel) {
    if (pixel - start < height) return;
    x = pixel - start < 2 * height ? x + 1 : pixel / height;
    start = x * height;
  };
  bool foreground = false;
  Counts counts(mask);
  for (auto block = counts.next(); block.begin != block.end; block = counts.next()) {
    for (const std::int64_t* count = block.begin; count != block.end; ++count, foreground = !foreground) {
      const std::int64_t begin = position;
      position += *count;
      if (!foreground || *count == 0) continue;
      move_to(begin);
      if (left < 0) left = x;
      const bool spans_columns = position - start > height;
      top = std::min(top, spans_columns ? 0 : begin - start);
      move_to(position - 1);
      bottom = std::max(bottom, spans_columns ? height - 1 : position - 1 - start);
      right = x;
    }
  }
  const bool empty = right < 0;
  xywh[0] = empty ? 0 : static_cast<double>(left);
  xywh[1] = empty ? 0 : static_cast<double>(top);
  xywh[2] = empty ? 0 : static_cast<double>(right - left + 1);
  xywh[3] = empty ? 0 : static_cast<double>(bottom - top + 1);
}

}  // namespace visdeploy
