// See Note [Code for one instruction set] in bits_cpu.h.

std::string encode_logits(const Tensor& logits, Size size, float threshold) {
  const auto [height, width] = size;
  if (logits.shape[0] == height && logits.shape[1] == width) return encode_above(logits, threshold);
  MaskRows rows(logits, size, threshold);
  rows.next(0);
  BitLine before = rows.bits(), below = before;
  const bool begins = before[0] & 1;
  // Below the last row comes the first one, moved left by one.
  for (std::size_t w = 0; w < below.size(); ++w) {
    below[w] = below[w] >> 1 | (w + 1 < below.size() ? below[w + 1] << 63 : 0);
  }
  BitColumns columns(height, width);
  for (std::int64_t y = 1; y < height; ++y) {
    rows.next(y);
    columns.add_line(rows.bits(), before);
    before = rows.bits();
  }
  set_range(before, width - 1, width, false);
  columns.add_line(below, before);

  CountsWriter writer;
  std::uint32_t* end = writer.begin();
  if (begins) end = writer.add(1, 0, end);
  const std::int64_t lines = height;
  columns.for_each(
      [&](std::uint64_t word, std::int64_t x, std::int64_t y) { end = writer.add(word, x * lines + y + 1, end); });
  return writer.finish(height * width, end);
}

std::vector<std::string> semantic_map(const Tensor& logits, Size size, std::uint8_t* map, std::int64_t* areas) {
  const std::int64_t height = size.first, width = size.second;
  LabelRows rows(logits, size);
  BitColumns columns(height, width);
  rows.row(0, nullptr, map);
  for (std::int64_t y = 1; y < height; ++y) {
    std::uint8_t *row = map + y * width, *above = row - width;
    rows.row(y, above, row);
    columns.add_line(Bytes{}, row, above, width, 0);
  }
  columns.add_line(Bytes{}, map + 1, map + (height - 1) * width, width - 1, 0);

  // Walked in run order, each transition closes a run of one class and opens one of another.
  const auto classes = static_cast<std::size_t>(logits.shape[0]);
  std::fill_n(areas, classes, 0);
  std::vector<CountsWriter> writers(classes);
  std::vector<std::uint32_t*> ends;
  for (CountsWriter& writer : writers) ends.push_back(writer.begin());
  const auto add = [&](std::size_t c, std::int64_t position) { ends[c] = writers[c].add(1, position, ends[c]); };
  std::int64_t begin = 0;
  std::size_t label = map[0];
  add(label, 0);
  columns.for_each([&](std::uint64_t word, std::int64_t x, std::int64_t y) {
    for (; word; word &= word - 1) {
      const std::int64_t down = y + 1 + __builtin_ctzll(word), position = x * height + down;
      areas[label] += position - begin;
      add(label, position);
      begin = position;
      label = down < height ? map[down * width + x] : map[x + 1];
      add(label, position);
    }
  });
  areas[label] += height * width - begin;
  std::vector<std::string> counts;
  for (std::size_t c = 0; c < classes; ++c) counts.push_back(writers[c].finish(height * width, ends[c]));
  return counts;
}
