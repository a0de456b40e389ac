#include <algorithm>
#include <charconv>
#include <cstring>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/isa.h"
#include "ops/count_text.h"
#include "ops/rle.h"

// The two texts that masks travel in: COCO's compressed counts and Kaggle's runs.
namespace visdeploy {
namespace {

// Holds what every text has in common: sizes that multiply without wrapping.
Rle sized(const char* op, std::int64_t height, std::int64_t width) {
  constexpr std::int64_t limit = (std::int64_t{1} << 31) - 1;
  VD_CHECK(height >= 0 && width >= 0 && height <= limit && width <= limit, "[", op,
           "] size: expected two numbers from 0 to 2147483647, got [", height, ", ", width, "]");
  return {height, width, {}};
}

void check_counts(const Rle& rle) {
  std::int64_t left = rle.pixels();
  for (const std::int64_t count : rle.counts) {
    VD_CHECK(count >= 0, "[rle] counts: expected none below zero, got ", count);
    VD_CHECK(count <= left, "[rle] counts: expected at most ", rle.pixels(), " pixels for size [", rle.height, ", ",
             rle.width, "], got more");
    left -= count;
  }
}

// The number that begins at character i, and moves i behind it.
std::int64_t read_change_slowly(std::string_view text, std::size_t& i) {
  constexpr int kMaxBits = 60;
  std::int64_t x = 0;
  for (int bits = 0;; bits += 5) {
    VD_CHECK(i < text.size(), "[rle] counts: the string ends inside a number, is it cut short?");
    const std::int64_t group = text[i] - 48;
    VD_CHECK(group >= 0 && group < 64, "[rle] counts: character ", i, " is not one of COCO's, '0' to 'o'");
    VD_CHECK(bits < kMaxBits, "[rle] counts: the number that ends at character ", i, " is too long");
    ++i;
    x |= (group & 0x1f) << bits;
    if (group & 0x20) continue;
    return group & 0x10 ? x - (std::int64_t{1} << (bits + 5)) : x;
  }
}

// The same, eight characters at a time and without a guess at how many a number has.
std::int64_t read_change(std::string_view text, std::size_t& i) {
  std::uint64_t groups;
  if (text.size() - i < sizeof(groups)) return read_change_slowly(text, i);
  std::memcpy(&groups, text.data() + i, sizeof(groups));
  groups -= 0x3030303030303030;
  const std::uint64_t last = ~groups & 0x2020202020202020;
  const std::uint64_t used = last ^ (last - 1);  // every bit up to the first one of last
  // A character below '0' borrows from those after it only, so the first bad one shows.
  if (!last || (groups & 0xc0c0c0c0c0c0c0c0 & (used << 2 | used))) return read_change_slowly(text, i);
  groups &= 0x1f1f1f1f1f1f1f1f & used;
  groups = (groups & 0x001f001f001f001f) | (groups & 0x1f001f001f001f00) >> 3;
  groups = (groups & 0x000003ff000003ff) | (groups & 0x03ff000003ff0000) >> 6;
  groups = (groups & 0x00000000000fffff) | (groups & 0x000fffff00000000) >> 12;
  const int length = (__builtin_ctzll(last) >> 3) + 1, unused = 64 - 5 * length;
  i += static_cast<std::size_t>(length);
  return static_cast<std::int64_t>(groups << unused) >> unused;
}

}  // namespace

std::string to_string(const Rle& rle) {
  std::string text;
  text.reserve(2 * rle.counts.size() + 16);
  char chunk[512];
  char* end = chunk;
  for (std::size_t i = 0; i < rle.counts.size(); ++i) {
    end = append_count(rle.counts[i] - (i > 2 ? rle.counts[i - 2] : 0), end);
    if (end > chunk + sizeof(chunk) - 2 * sizeof(std::uint64_t)) {
      text.append(chunk, static_cast<std::size_t>(end - chunk));
      end = chunk;
    }
  }
  return text.append(chunk, static_cast<std::size_t>(end - chunk));
}

Rle parse(std::string_view counts, std::int64_t height, std::int64_t width) {
  Rle rle = sized("rle", height, width);
  rle.counts.resize(static_cast<std::size_t>(
      std::count_if(counts.begin(), counts.end(), [](char c) { return ((c - 48) & 0x20) == 0; })));
  std::size_t i = 0, n = 0;
  while (n < rle.counts.size()) {
    if (isa() == Isa::kAvx512) n += avx512::read_changes(counts, i, rle.counts.data() + n);
    if (n < rle.counts.size()) rle.counts[n++] = read_change(counts, i);
  }
  if (i < counts.size()) read_change_slowly(counts, i);  // says what is wrong with it

  std::int64_t left = rle.pixels(), before = 0, last = 0;
  for (n = 0; n < rle.counts.size(); ++n) {
    const std::int64_t count = rle.counts[n] + (n > 2 ? before : 0);
    VD_CHECK(count >= 0 && count <= rle.pixels(), "[rle] counts: expected 0 to ", rle.pixels(), " for size [", height,
             ", ", width, "], got ", count);
    VD_CHECK(count <= left, "[rle] counts: expected at most ", rle.pixels(), " pixels for size [", height, ", ", width,
             "], got more");
    left -= count;
    rle.counts[n] = count;
    before = std::exchange(last, count);
  }
  return rle;
}

Rle parse(std::vector<std::int64_t> counts, std::int64_t height, std::int64_t width) {
  Rle rle = sized("rle", height, width);
  rle.counts = std::move(counts);
  check_counts(rle);
  return rle;
}

std::string to_kaggle(const Rle& rle, Order order, std::int64_t base) {
  VD_CHECK(rle.pixels() <= kMaxPixels, "[to_kaggle] size: at most ", kMaxPixels, " pixels, got ", rle.pixels());
  const Rle runs = order == Order::kRow ? transpose(rle) : rle;
  std::string text;
  std::int64_t position = 0, begin = 0, length = 0;
  const auto flush = [&] {
    if (length == 0) return;
    if (!text.empty()) text += ' ';
    text += std::to_string(begin + base) + ' ' + std::to_string(length);
    length = 0;
  };
  // Counts may contain empty runs, across which their neighbours are one.
  for (std::size_t i = 0; i < runs.counts.size(); ++i) {
    const std::int64_t count = runs.counts[i];
    if (i % 2 == 0 && count > 0) flush();
    if (i % 2 == 1 && count > 0) {
      if (length == 0) begin = position;
      length += count;
    }
    position += count;
  }
  flush();
  return text;
}

Rle from_kaggle(const std::string& text, std::int64_t height, std::int64_t width, Order order, std::int64_t base) {
  constexpr const char* kSpaces = " \t\r\n";
  Rle rle = order == Order::kRow ? sized("from_kaggle", width, height) : sized("from_kaggle", height, width);
  VD_CHECK(rle.pixels() <= kMaxPixels, "[from_kaggle] shape: at most ", kMaxPixels, " pixels, got ", rle.pixels());
  std::vector<std::int64_t> numbers;
  for (std::size_t i = text.find_first_not_of(kSpaces); i != std::string::npos;
       i = text.find_first_not_of(kSpaces, i)) {
    const std::size_t end = std::min(text.find_first_of(kSpaces, i), text.size());
    std::int64_t value = 0;
    const auto [stop, error] = std::from_chars(text.data() + i, text.data() + end, value);
    VD_CHECK(error == std::errc() && stop == text.data() + end, "[from_kaggle] text: expected whole numbers, got '",
             text.substr(i, std::min<std::size_t>(end - i, 20)), "'");
    numbers.push_back(value);
    i = end;
  }
  VD_CHECK(numbers.size() % 2 == 0, "[from_kaggle] text: expected pairs of start and length, got ", numbers.size(),
           " numbers");
  std::int64_t position = 0;
  for (std::size_t i = 0; i < numbers.size(); i += 2) {
    const std::int64_t start = numbers[i], length = numbers[i + 1];
    VD_CHECK(start >= base && start - base < rle.pixels(), "[from_kaggle] text: start ", start,
             " lies outside the image of ", rle.pixels(), " pixels");
    VD_CHECK(length > 0 && length <= rle.pixels() - (start - base), "[from_kaggle] text: the run ", start, " ", length,
             " is empty or leaves the image of ", rle.pixels(), " pixels");
    VD_CHECK(start - base >= position, "[from_kaggle] text: the run ", start, " ", length,
             " overlaps the one before it, or comes out of order");
    const bool joins = i > 0 && start - base == position;
    if (joins) {
      rle.counts.back() += length;
    } else {
      rle.counts.push_back(start - base - position);
      rle.counts.push_back(length);
    }
    position = start - base + length;
  }
  if (position < rle.pixels() || rle.counts.empty()) rle.counts.push_back(rle.pixels() - position);
  return order == Order::kRow ? transpose(rle) : rle;
}

}  // namespace visdeploy
