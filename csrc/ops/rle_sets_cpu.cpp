#include <algorithm>
#include <cstring>

#include "ops/rle_sets.h"

namespace visdeploy::cpu {

namespace {

using Wide = double __attribute__((vector_size(16)));

// Without an instruction for it: sums of two, four and eight bits side by side, which compilers vectorise.
std::int64_t count_bits(std::uint64_t bits) {
  bits -= (bits >> 1) & 0x5555555555555555;
  bits = (bits & 0x3333333333333333) + ((bits >> 2) & 0x3333333333333333);
  bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0f;
  bits += bits >> 8;
  bits += bits >> 16;
  return static_cast<std::int64_t>((bits + (bits >> 32)) & 0x7f);
}

}  // namespace

std::int64_t common_bits(const std::uint64_t* a, const std::uint64_t* b, std::int64_t n) {
  std::int64_t sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += count_bits(a[i] & b[i]);
  return sum;
}

#include "ops/box_iou_row.h"

namespace {

using Ends = std::vector<std::uint32_t>;

// Appends where the runs of the merged mask end. Runs without pixels come through, as in pycocotools.
void merge_pair(const Runs::View& first, const Runs::View& second, bool intersect, Ends& out) {
  const std::uint32_t total = std::max(first.last_end(), second.last_end());
  const std::size_t begin = out.size();
  out.resize(begin + first.n + second.n + 1);
  std::uint32_t* to = out.data() + begin;
  // The end of a last run of background changes nothing: background follows.
  const std::uint32_t *a = first.ends, *b = second.ends;
  const std::uint32_t *const a_stop = a + first.n / 2 * 2, *const b_stop = b + second.n / 2 * 2;
  bool in_a = false, in_b = false;
  while (a != a_stop && b != b_stop) {
    // Where one mask begins or ends, the result does if the other one lets it show.
    if (*a < *b) {
      *to = *a++;
      to += in_b == intersect;
      in_a = !in_a;
    } else if (*b < *a) {
      *to = *b++;
      to += in_a == intersect;
      in_b = !in_b;
    } else {
      *to = *a++;
      ++b;
      to += in_a == in_b;
      in_a = !in_a;
      in_b = !in_b;
    }
  }
  if (!intersect) to = std::copy(b, b_stop, std::copy(a, a_stop, to));
  while (to != out.data() + begin && to[-1] >= total) --to;
  *to++ = total;
  out.resize(static_cast<std::size_t>(to - out.data()));
}

// Neighbours merge in pairs until one mask is left.
Ends merge_in_pairs(const Runs& masks, bool intersect) {
  std::vector<Runs::View> parts;
  parts.reserve(masks.size());
  for (std::size_t i = 0; i < masks.size(); ++i) parts.push_back(masks[i]);
  Ends now, next;
  while (parts.size() > 1) {
    // Never longer than this, so that parts may point into it while it grows.
    next.clear();
    next.reserve(masks.total_ends() + masks.size());
    std::size_t merged = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); i += 2) {
      const std::size_t begin = next.size();
      merge_pair(parts[i], parts[i + 1], intersect, next);
      parts[merged++] = {parts[i].height, parts[i].width, next.data() + begin, next.size() - begin};
    }
    if (parts.size() % 2 == 1) {
      const Runs::View last = parts.back();
      next.insert(next.end(), last.ends, last.ends + last.n);
      parts[merged++] = {last.height, last.width, next.data() + next.size() - last.n, last.n};
    }
    parts.resize(merged);
    now.swap(next);
  }
  return now;
}

// Sets the bits from begin to end, of which there is at least one. Mostly that is one word or two, and both are written
// either way, for there is no telling which.
void set_bits(std::uint64_t* words, std::uint32_t begin, std::uint32_t end) {
  const std::uint32_t first = begin / 64, last = (end - 1) / 64;
  std::uint64_t head = ~std::uint64_t{0} << (begin % 64), tail = ~std::uint64_t{0} >> (63 - (end - 1) % 64);
  const std::uint64_t both = head & tail;
  head = first == last ? both : head;
  tail = first == last ? both : tail;
  words[first] |= head;
  words[last] |= tail;
  for (std::uint32_t i = first + 1; i < last; ++i) words[i] = ~std::uint64_t{0};
}

// All foreground is painted over each other; for an intersection, all background. Gives nothing where a run without
// pixels would be lost.
Ends merge_as_bits(const Runs& masks, bool intersect) {
  std::uint32_t total = 0;
  for (std::size_t i = 0; i < masks.size(); ++i) total = std::max(total, masks[i].last_end());
  std::vector<std::uint64_t> words(total / 64 + 1);
  for (std::size_t i = 0; i < masks.size(); ++i) {
    const Runs::View mask = masks[i];
    unsigned without_pixels = 0;
    for (std::size_t run = 1; run < mask.n; ++run) without_pixels |= mask.ends[run] == mask.ends[run - 1];
    if (without_pixels) return {};
    if (intersect && mask.n && mask.ends[0] > 0) set_bits(words.data(), 0, mask.ends[0]);
    for (std::size_t run = intersect ? 2 : 1; run < mask.n; run += 2) {
      set_bits(words.data(), mask.ends[run - 1], mask.ends[run]);
    }
    if (intersect && mask.last_end() < total) set_bits(words.data(), mask.last_end(), total);
  }
  Ends ends;
  std::uint64_t before = 0;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::uint64_t word = intersect ? ~words[i] : words[i];
    for (std::uint64_t changes = word ^ (word << 1 | before); changes; changes &= changes - 1) {
      const auto position = static_cast<std::uint32_t>(64 * i) + static_cast<std::uint32_t>(__builtin_ctzll(changes));
      if (position < total) ends.push_back(position);
    }
    before = word >> 63;
  }
  ends.push_back(total);
  return ends;
}

// By measurement: bits take as long as the image is large, pairs as there are runs in each of log2(n) rounds.
bool better_as_bits(const Runs& masks) {
  std::size_t rounds = 0;
  while ((std::size_t{1} << rounds) < masks.size()) ++rounds;
  return rounds > 1 && static_cast<std::size_t>(masks[0].pixels() / 64) < (rounds - 1) * masks.total_ends();
}

}  // namespace

Ends merge(const Runs& masks, bool intersect) {
  Ends ends;
  if (better_as_bits(masks)) ends = merge_as_bits(masks, intersect);
  if (ends.empty()) ends = merge_in_pairs(masks, intersect);
  return ends;
}

}  // namespace visdeploy::cpu
