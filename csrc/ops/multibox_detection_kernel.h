// No include guard: multibox_detection_cpu.cpp and its faster siblings include this inside their own namespaces.

// Note [NMS of anchors]
// Here most boxes are dropped, and their order is that of anchors, which lie row by row: sixteen neighbours have a
// bounding box that is not much larger than one of them. So a box that is kept drops others at once, block by block,
// and looks only into blocks that have any left and that it can drop from: IoU > t needs an overlap of more than t
// times its own width and height, and an area of less than 1 / t times its own. Both tests are loops without branches,
// which the compiler vectorises. On the book's 5444 anchors this takes two thirds of the time of suppress(), which
// cannot know of such neighbours.
//
// That holds for boxes with sane areas and t > 0. With others every block is looked into, as the rule says it all: a
// box stays while its IoU with each that is kept is at most t, which an IoU of NaN is not.

constexpr std::int64_t kBlock = 16;
constexpr float kSlack = 1e-6f;  // beyond the rounding of a few operations

static inline float least(float a, float b) { return a < b ? a : b; }
static inline float greatest(float a, float b) { return a > b ? a : b; }
static inline float overlap(float low_a, float high_a, float low_b, float high_b) {
  return least(high_a, high_b) - greatest(low_a, low_b);
}

// Boxes side by side; `left` is 1 while neither kept nor dropped.
struct Block {
  float x1[kBlock], y1[kBlock], x2[kBlock], y2[kBlock], area[kBlock];
  std::uint32_t left[kBlock];
};

// Bounds of the blocks, and whether they have any left: side by side too, in whole words of eight.
struct Bounds {
  std::vector<float> x1, y1, x2, y2, least_area;
  std::vector<std::uint8_t> any_left;

  explicit Bounds(std::size_t blocks)
      : x1(blocks), y1(blocks), x2(blocks), y2(blocks), least_area(blocks), any_left(blocks) {}
};

static inline bool is_sane(float x1, float y1, float x2, float y2, float area) {
  constexpr float kLargest = std::numeric_limits<float>::max() / 4, kSmallest = 1e-30f;
  return x1 < x2 && y1 < y2 && area > kSmallest && area < kLargest;
}

// Fills blocks and bounds; tells whether all boxes are sane.
static inline bool fill(const float* boxes, std::int64_t n, std::vector<Block>& blocks, Bounds& bounds) {
  bool sane = true;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto b = static_cast<std::size_t>(i / kBlock), lane = static_cast<std::size_t>(i % kBlock);
    const float x1 = boxes[4 * i], y1 = boxes[4 * i + 1], x2 = boxes[4 * i + 2], y2 = boxes[4 * i + 3];
    const float area = (x2 - x1) * (y2 - y1);
    Block& block = blocks[b];
    block.x1[lane] = x1, block.y1[lane] = y1, block.x2[lane] = x2, block.y2[lane] = y2;
    block.area[lane] = area;
    block.left[lane] = 1;
    bounds.any_left[b] = 1;
    bounds.x1[b] = lane ? least(bounds.x1[b], x1) : x1;
    bounds.y1[b] = lane ? least(bounds.y1[b], y1) : y1;
    bounds.x2[b] = lane ? greatest(bounds.x2[b], x2) : x2;
    bounds.y2[b] = lane ? greatest(bounds.y2[b], y2) : y2;
    bounds.least_area[b] = lane ? least(bounds.least_area[b], area) : area;
    sane &= is_sane(x1, y1, x2, y2, area);
  }
  return sane;
}

struct Box {
  float x1, y1, x2, y2, area;
};

// Drops what overlaps the box by more than the threshold; tells whether any are left.
static inline bool drop(Block& block, const Box& box, float threshold) {
  std::uint32_t any = 0;
  for (std::int64_t l = 0; l < kBlock; ++l) {
    const float w = overlap(box.x1, box.x2, block.x1[l], block.x2[l]);
    const float h = overlap(box.y1, box.y2, block.y1[l], block.y2[l]);
    const float inter = (w < 0 ? 0 : w) * (h < 0 ? 0 : h);
    block.left[l] = inter / (box.area + block.area[l] - inter) <= threshold ? block.left[l] : 0;
    any |= block.left[l];
  }
  return any;
}

// Marks the blocks that overlap the box by more than these sides and have any left.
static inline void find(const Bounds& bounds, const Box& box, float needed, std::vector<std::uint8_t>& hits) {
  const float width = (box.x2 - box.x1) * needed, height = (box.y2 - box.y1) * needed, area = box.area;
  const float* __restrict x1 = bounds.x1.data(), * __restrict y1 = bounds.y1.data();
  const float* __restrict x2 = bounds.x2.data(), * __restrict y2 = bounds.y2.data();
  const float* __restrict least_area = bounds.least_area.data();
  const std::uint8_t* __restrict any_left = bounds.any_left.data();
  std::uint8_t* __restrict out = hits.data();
  const std::size_t n = hits.size();
  for (std::size_t b = 0; b < n; ++b) {
    const bool wide = overlap(box.x1, box.x2, x1[b], x2[b]) > width;
    const bool high = overlap(box.y1, box.y2, y1[b], y2[b]) > height;
    const bool small = least_area[b] * needed < area;
    out[b] = wide & high & small & any_left[b];
  }
}

void suppress_anchors(const float* boxes, const std::uint32_t* order, std::int64_t n, float threshold,
                      std::vector<std::uint32_t>& kept) {
  constexpr std::size_t kWord = sizeof(std::uint64_t);
  const std::size_t words = (static_cast<std::size_t>(n) + kBlock * kWord - 1) / (kBlock * kWord);
  std::vector<Block> blocks(words * kWord);
  Bounds bounds(blocks.size());
  const bool sane = fill(boxes, n, blocks, bounds) && threshold > 1e-6f;
  const float needed = threshold * (1 - 4 * kSlack);
  std::vector<std::uint8_t> hits(bounds.any_left.size());
  for (std::int64_t k = 0; k < n; ++k) {
    const std::uint32_t i = order[k];
    Block& own = blocks[i / kBlock];
    const std::size_t lane = i % kBlock;
    if (!own.left[lane]) continue;
    own.left[lane] = 0;
    kept.push_back(i);
    const Box box{own.x1[lane], own.y1[lane], own.x2[lane], own.y2[lane], own.area[lane]};
    if (sane) {
      find(bounds, box, needed, hits);
    } else {
      hits = bounds.any_left;
    }
    for (std::size_t first = 0; first < hits.size(); first += kWord) {
      std::uint64_t word;
      std::memcpy(&word, hits.data() + first, kWord);
      for (; word; word &= word - 1) {
        const std::size_t b = first + static_cast<std::size_t>(__builtin_ctzll(word)) / 8;
        bounds.any_left[b] = drop(blocks[b], box, threshold);
      }
    }
  }
}
