#include <algorithm>
#include <charconv>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/isa.h"
#include "ops/rle.h"

// The two texts that masks travel in: COCO's compressed counts and Kaggle's runs.
namespace visdeploy {
namespace {

// Holds what every text has in common: sizes that multiply without wrapping.
void check_size(const char* op, std::int64_t height, std::int64_t width) {
  constexpr std::int64_t limit = (std::int64_t{1} << 31) - 1;
  VD_CHECK(height >= 0 && width >= 0 && height <= limit && width <= limit, "[", op,
           "] size: expected two numbers from 0 to 2147483647, got [", height, ", ", width, "]");
}

// Reads the number that begins at character i, and returns where the next one begins.
std::size_t read_change(std::string_view text, std::size_t i, std::int64_t* out) {
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
    *out = group & 0x10 ? x - (std::int64_t{1} << (bits + 5)) : x;
    return i;
  }
}

std::size_t read_counts(CountsText& counts, std::int64_t* out, std::size_t room) {
  return isa() == Isa::kAvx512 ? avx512::read_counts(counts, out, room) : cpu::read_counts(counts, out, room);
}

// By value and out of the way, because variables that something points at do not stay in registers.
[[noreturn, gnu::noinline]] void refuse_count(const Encoded& mask, std::int64_t count) {
  VD_CHECK(count >= 0, "[rle] counts: expected none below zero, got ", count);
  VD_CHECK(count <= mask.pixels() || !std::holds_alternative<std::string_view>(mask.counts),
           "[rle] counts: expected 0 to ", mask.pixels(), " for size [", mask.height, ", ", mask.width, "], got ",
           count);
  throw InputError(message("[rle] counts: expected at most ", mask.pixels(), " pixels for size [", mask.height, ", ",
                           mask.width, "], got more"));
}

void check_base(const char* op, std::int64_t base) {
  VD_CHECK(base >= -kMaxPixels && base <= kMaxPixels, "[", op, "] base: expected a number within ", kMaxPixels,
           " of zero, got ", base);
}

}  // namespace

std::string to_string(const std::uint32_t* ends, std::size_t n) {
  if (isa() == Isa::kAvx512) return avx512::to_string(ends, n);
  if (isa() == Isa::kAvx2) return avx2::to_string(ends, n);
  return cpu::to_string(ends, n);
}

std::string to_string(const Rle& rle) {
  std::vector<std::uint32_t> ends;
  ends.reserve(rle.counts.size());
  std::int64_t end = 0;
  for (const std::int64_t count : rle.counts) ends.push_back(static_cast<std::uint32_t>(end += count));
  VD_CHECK(end <= kMaxPixels, "[rle] counts: expected at most ", kMaxPixels, " pixels, got ", end);
  return to_string(ends.data(), ends.size());
}

Encoded::Encoded(std::int64_t h, std::int64_t w, std::variant<std::string_view, std::vector<std::int64_t>> c)
    : height(h), width(w), counts(std::move(c)) {
  check_size("rle", height, width);
}

Counts::Counts(const Encoded& mask) : mask_(mask), text_{nullptr, nullptr, mask.pixels(), 0, 0} {
  if (const auto* text = std::get_if<std::string_view>(&mask.counts)) {
    text_.text = text->data();
    text_.end = text->data() + text->size();
  }
}

Counts::Block Counts::next() {
  if (const auto* numbers = std::get_if<std::vector<std::int64_t>>(&mask_.counts)) {
    const std::int64_t *begin = numbers->data() + read_, *end = numbers->data() + numbers->size();
    for (const std::int64_t* count = begin; count != end; ++count) {
      if (*count < 0 || *count > text_.left) refuse_count(mask_, *count);
      text_.left -= *count;
    }
    read_ = numbers->size();
    return {begin, end};
  }
  // The careful reader takes the first count of a text, and every one before which read_counts stops.
  std::size_t n = 0;
  while (kBlock - n >= kAtOnce && text_.text != text_.end) {
    block_[n++] = read_carefully();
    // Sums of what larger ones hold might wrap.
    if (mask_.pixels() <= kMaxPixels) n += read_counts(text_, block_ + n, kBlock - n);
  }
  return {block_, block_ + n};
}

std::int64_t Counts::read_carefully() {
  const std::string_view text = std::get<std::string_view>(mask_.counts);
  const auto i = static_cast<std::size_t>(text_.text - text.data());
  std::int64_t change;
  text_.text = text.data() + read_change(text, i, &change);
  const std::int64_t count = change + text_.before;
  if (count < 0 || count > text_.left) refuse_count(mask_, count);
  text_.left -= count;
  text_.before = text_.last;
  text_.last = i > 0 ? count : 0;
  return count;
}

Rle parse(const Encoded& mask) {
  Rle rle{mask.height, mask.width, {}};
  if (const auto* text = std::get_if<std::string_view>(&mask.counts)) {
    const auto ends = [](char c) { return ((c - 48) & 0x20) == 0; };
    rle.counts.reserve(static_cast<std::size_t>(std::count_if(text->begin(), text->end(), ends)));
  }
  Counts counts(mask);
  for (auto block = counts.next(); block.begin != block.end; block = counts.next()) {
    rle.counts.insert(rle.counts.end(), block.begin, block.end);
  }
  return rle;
}

std::string to_kaggle(const Rle& rle, Order order, std::int64_t base) {
  check_base("to_kaggle", base);
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
  check_size("from_kaggle", height, width);
  check_base("from_kaggle", base);
  Rle rle = order == Order::kRow ? Rle{width, height, {}} : Rle{height, width, {}};
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
