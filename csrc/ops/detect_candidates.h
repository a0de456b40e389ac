#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace visdeploy {

// The best (score, anchor, class) of an image. Holds at least `capacity` of them before it lets the worst go, and then
// raises the score that others must exceed.
class Candidates {
 public:
  // Rises with the score, then falls with the entry, which is anchor * classes + class.
  using Key = std::uint64_t;

  static Key key(float score, std::uint32_t entry) {
    std::uint32_t bits;
    std::memcpy(&bits, &score, sizeof(bits));
    return static_cast<Key>(bits) << 32 | ~entry;
  }
  static std::uint32_t entry(Key key) { return ~static_cast<std::uint32_t>(key); }
  static float score(Key key) {
    const auto bits = static_cast<std::uint32_t>(key >> 32);
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }

  Candidates(float threshold, std::size_t capacity) : floor_(threshold), capacity_(capacity) {}

  // Scores at or below this are of no interest.
  float floor() const { return floor_; }
  bool let_go() const { return let_go_; }
  const std::vector<Key>& keys() const { return keys_; }

  // Entries of one object come in rising order, so that a later one never beats an equal score.
  void push(float score, std::uint32_t entry);

 private:
  float floor_;
  std::size_t capacity_;
  bool let_go_ = false;
  std::vector<Key> keys_;
};

// Variants: adds the classes of anchors [first, last) of the logits, of which a row begins every `stride` numbers,
// whose softmax exceeds candidates.floor().
#define VD_DECLARE_SCAN                                                                                            \
  void scan(const float* logits, std::int64_t stride, std::int64_t first, std::int64_t last, std::int64_t classes, \
            Candidates& candidates);
namespace cpu {
VD_DECLARE_SCAN
}
namespace avx2 {
VD_DECLARE_SCAN
}
#undef VD_DECLARE_SCAN

}  // namespace visdeploy
