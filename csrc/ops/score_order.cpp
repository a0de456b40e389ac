#include "ops/score_order.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>

namespace visdeploy {
namespace {

template <class Key>
struct Entry {
  Key key;
  std::uint32_t index;
};

#include "ops/score_key.h"

int bit_width(std::uint64_t x) { return x ? 64 - __builtin_clzll(x) : 0; }

// Least significant digit first, over the lowest `width` bits, above which the keys agree. Both buffers have room for n
// entries; returns the one that holds the result.
template <class Key>
Entry<Key>* radix_sort(Entry<Key>* entries, Entry<Key>* other, std::size_t n, int width) {
  constexpr int kLeastBits = 6, kMostBits = 11, kMostDigits = (8 * sizeof(Key) + kLeastBits - 1) / kLeastBits;
  // Digits as wide as n: counting them costs as much as moving the entries.
  const int wide = std::clamp(bit_width(n), kLeastBits, kMostBits), digits = (width + wide - 1) / wide;
  if (digits == 0) return entries;
  const int bits = (width + digits - 1) / digits;
  const auto mask = static_cast<Key>((Key{1} << bits) - 1);
  std::uint32_t counts[kMostDigits << kMostBits];
  std::fill_n(counts, static_cast<std::size_t>(digits) << bits, 0);
  for (std::size_t i = 0; i < n; ++i) {
    for (int d = 0; d < digits; ++d) ++counts[(d << bits) + static_cast<int>(entries[i].key >> (d * bits) & mask)];
  }
  for (int d = 0; d < digits; ++d) {
    std::uint32_t* slot = counts + (d << bits);
    std::uint32_t sum = 0;
    for (Key i = 0; i <= mask; ++i) sum += std::exchange(slot[i], sum);
    for (std::size_t i = 0; i < n; ++i) other[slot[entries[i].key >> (d * bits) & mask]++] = entries[i];
    std::swap(entries, other);
  }
  return entries;
}

template <class Key, class T>
std::vector<std::uint32_t> order(const T* scores, std::int64_t n, std::optional<double> threshold) {
  const auto size = static_cast<std::size_t>(n);
  const std::unique_ptr<Entry<Key>[]> entries(new Entry<Key>[2 * size]);
  std::size_t count = 0;
  if (threshold) {
    for (std::size_t i = 0; i < size; ++i) {
      entries[count] = {key_of<Key>(scores[i]), static_cast<std::uint32_t>(i)};
      count += scores[i] > *threshold;
    }
  } else {
    for (; count < size; ++count) entries[count] = {key_of<Key>(scores[count]), static_cast<std::uint32_t>(count)};
  }
  Key differences = 0;
  for (std::size_t i = 0; i < count; ++i) differences |= entries[i].key ^ entries[0].key;
  const Entry<Key>* sorted = radix_sort(entries.get(), entries.get() + size, count, bit_width(differences));
  std::vector<std::uint32_t> indices(count);
  for (std::size_t i = 0; i < count; ++i) indices[i] = sorted[i].index;
  return indices;
}

}  // namespace

std::vector<std::uint32_t> score_order(const float* scores, std::int64_t n, std::optional<double> threshold) {
  return order<std::uint32_t>(scores, n, threshold);
}

std::vector<std::uint32_t> score_order(const double* scores, std::int64_t n, std::optional<double> threshold) {
  return order<std::uint64_t>(scores, n, threshold);
}

}  // namespace visdeploy
