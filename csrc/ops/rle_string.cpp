#include <algorithm>
#include <charconv>
#include <cstring>
#include <utility>

#include "core/error.h"
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

Rle parse(const std::string& counts, std::int64_t height, std::int64_t width) {
  constexpr int kMaxBits = 60;
  Rle rle = sized("rle", height, width);
  for (std::size_t i = 0; i < counts.size();) {
    std::int64_t x = 0;
    int bits = 0;
    for (bool more = true; more; ++i, bits += 5) {
      VD_CHECK(i < counts.size(), "[rle] counts: the string ends inside a number, is it cut short?");
      const std::int64_t group = counts[i] - 48;
      VD_CHECK(group >= 0 && group < 64, "[rle] counts: character ", i, " is not one of COCO's, '0' to 'o'");
      VD_CHECK(bits < kMaxBits, "[rle] counts: the number that ends at character ", i, " is too long");
      x |= (group & 0x1f) << bits;
      more = group & 0x20;
      if (!more && (group & 0x10)) x |= -(std::int64_t{1} << (bits + 5));
    }
    const std::size_t n = rle.counts.size();
    rle.counts.push_back(x + (n > 2 ? rle.counts[n - 2] : 0));
    VD_CHECK(rle.counts[n] >= 0 && rle.counts[n] <= rle.pixels(), "[rle] counts: expected 0 to ", rle.pixels(),
             " for size [", height, ", ", width, "], got ", rle.counts[n]);
  }
  check_counts(rle);
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
