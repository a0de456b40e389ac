#include <algorithm>
#include <limits>

#include "ops/rle_sets.h"

namespace visdeploy::cpu {

// Without an instruction for it: sums of two, four and eight bits side by side, which compilers vectorise.
std::int64_t common_bits(const std::uint64_t* a, const std::uint64_t* b, std::int64_t n) {
  std::uint64_t sum = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    std::uint64_t bits = a[i] & b[i];
    bits -= (bits >> 1) & 0x5555555555555555;
    bits = (bits & 0x3333333333333333) + ((bits >> 2) & 0x3333333333333333);
    bits = (bits + (bits >> 4)) & 0x0f0f0f0f0f0f0f0f;
    bits += bits >> 8;
    bits += bits >> 16;
    sum += (bits + (bits >> 32)) & 0x7f;
  }
  return static_cast<std::int64_t>(sum);
}

namespace {

// As fmin and fmax: where one is NaN the answer is the other.
double lesser(double a, double b) { return b < a || a != a ? b : a; }
double greater(double a, double b) { return b > a || a != a ? b : a; }

}  // namespace

void box_iou_row(const double* dt, std::int64_t m, const double* gt, bool crowd, double* out) {
  const double area = gt[2] * gt[3], right = gt[2] + gt[0], bottom = gt[3] + gt[1];
  for (std::int64_t d = 0; d < m; ++d) {
    const double* box = dt + 4 * d;
    const double own = box[2] * box[3];
    const double w = lesser(box[2] + box[0], right) - greater(box[0], gt[0]);
    const double h = lesser(box[3] + box[1], bottom) - greater(box[1], gt[1]);
    const double common = w * h;
    const double all = crowd ? own : own + area - common;
    // Not "w > 0 && h > 0": NaN goes through, as in pycocotools.
    out[d] = w <= 0 || h <= 0 ? 0 : common / all;
  }
}

namespace {

using Ends = std::vector<std::uint32_t>;

// A part of the ends of a mask: the list that holds them may move while it grows.
struct Part {
  std::size_t first, n;
};

// Appends where the runs of the merged mask end. Runs without pixels come through, as in pycocotools.
void merge_pair(const std::uint32_t* a, std::size_t a_n, const std::uint32_t* b, std::size_t b_n, bool intersect,
                Ends& out) {
  constexpr std::uint32_t kNever = std::numeric_limits<std::uint32_t>::max();
  const std::uint32_t total = std::max(a_n ? a[a_n - 1] : 0, b_n ? b[b_n - 1] : 0);
  // The end of a last run of background is no toggle: background follows.
  const std::uint32_t *const a_stop = a + a_n / 2 * 2, *const b_stop = b + b_n / 2 * 2;
  bool in_a = false, in_b = false, inside = false;
  while (a != a_stop || b != b_stop) {
    const std::uint32_t next_a = a != a_stop ? *a : kNever, next_b = b != b_stop ? *b : kNever;
    const std::uint32_t position = std::min(next_a, next_b);
    if (position >= total) break;
    if (next_a == position) {
      in_a = !in_a;
      ++a;
    }
    if (next_b == position) {
      in_b = !in_b;
      ++b;
    }
    const bool now = intersect ? in_a && in_b : in_a || in_b;
    if (now != inside) out.push_back(position);
    inside = now;
  }
  out.push_back(total);
}

// Neighbours merge in pairs until one mask is left.
Ends merge_in_pairs(const Runs& masks, bool intersect) {
  Ends now, next;
  std::vector<Part> parts;
  for (std::size_t i = 0; i < masks.size(); ++i) {
    parts.push_back({now.size(), masks[i].n});
    now.insert(now.end(), masks[i].ends, masks[i].ends + masks[i].n);
  }
  while (parts.size() > 1) {
    next.clear();
    std::size_t merged = 0;
    for (std::size_t i = 0; i < parts.size(); i += 2) {
      const std::size_t first = next.size();
      const std::uint32_t* a = now.data() + parts[i].first;
      if (i + 1 < parts.size()) {
        merge_pair(a, parts[i].n, now.data() + parts[i + 1].first, parts[i + 1].n, intersect, next);
      } else {
        next.insert(next.end(), a, a + parts[i].n);
      }
      parts[merged++] = {first, next.size() - first};
    }
    parts.resize(merged);
    now.swap(next);
  }
  return now;
}

void set_bits(std::uint64_t* words, std::uint32_t begin, std::uint32_t end) {
  if (begin >= end) return;
  const std::uint32_t first = begin / 64, last = (end - 1) / 64;
  std::uint64_t bits = ~std::uint64_t{0} << (begin % 64);
  for (std::uint32_t i = first; i < last; ++i, bits = ~std::uint64_t{0}) words[i] |= bits;
  words[last] |= bits & (~std::uint64_t{0} >> (63 - (end - 1) % 64));
}

// All foreground is painted over each other; for an intersection, all background.
Ends merge_as_bits(const Runs& masks, bool intersect) {
  std::uint32_t total = 0;
  for (std::size_t i = 0; i < masks.size(); ++i) total = std::max(total, masks[i].last_end());
  std::vector<std::uint64_t> words(total / 64 + 1);
  for (std::size_t i = 0; i < masks.size(); ++i) {
    const Runs::View mask = masks[i];
    std::uint32_t begin = 0;
    for (std::size_t run = 0; run < mask.n; ++run) {
      if ((run % 2 == 0) == intersect) set_bits(words.data(), begin, mask.ends[run]);
      begin = mask.ends[run];
    }
    if (intersect) set_bits(words.data(), begin, total);
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

// By measurement; bits take as long as the image is large, pairs as there are runs in each of log2(n) rounds. Runs
// without pixels, which would vanish among bits, go in pairs.
bool better_as_bits(const Runs& masks) {
  const std::size_t runs = masks.total_ends(), words = static_cast<std::size_t>(masks[0].pixels() / 64 + 1);
  if (masks.size() < 3 || words > 8 * runs) return false;
  for (std::size_t i = 0; i < masks.size(); ++i) {
    const Runs::View mask = masks[i];
    for (std::size_t run = 1; run < mask.n; ++run) {
      if (mask.ends[run] == mask.ends[run - 1]) return false;
    }
  }
  return true;
}

}  // namespace

Rle merge(const Runs& masks, bool intersect) {
  const Ends ends = better_as_bits(masks) ? merge_as_bits(masks, intersect) : merge_in_pairs(masks, intersect);
  Rle rle{masks[0].height, masks[0].width, {}};
  rle.counts.reserve(ends.size());
  std::uint32_t before = 0;
  for (const std::uint32_t end : ends) {
    rle.counts.push_back(end - before);
    before = end;
  }
  return rle;
}

}  // namespace visdeploy::cpu
