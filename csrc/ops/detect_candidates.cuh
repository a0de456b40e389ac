#pragma once

#include <cstdint>
#include <cstring>

#include "core/device.h"

namespace visdeploy::cuda {

// A score, and whose: the image, the score and the entry, which is anchor * classes + class, from the highest bits to
// the lowest, the score turned over. So no two are equal, and sorted they are the best of each image first, ties by
// (anchor, class).
using Candidate = std::uint64_t;
constexpr Candidate kEmpty = ~Candidate{0};  // comes after all

// The bits of a score, which is at most 1, and one: never 0 and below 2^30.
constexpr int kScoreBits = 30;
constexpr std::uint32_t kScoreMask = (1u << kScoreBits) - 1;

__device__ inline std::uint32_t score_key(float score) {
  std::uint32_t bits;
  std::memcpy(&bits, &score, sizeof(bits));
  return bits + 1;
}

struct CandidateLayout {
  int entry_bits;

  int image_shift() const { return entry_bits + kScoreBits; }

  __device__ Candidate candidate(std::int64_t image, std::uint32_t score_key, std::int64_t entry) const {
    const auto high = static_cast<Candidate>(image) << kScoreBits | (kScoreMask - score_key);
    return high << entry_bits | static_cast<Candidate>(entry);
  }
  __device__ std::int64_t image(Candidate c) const { return static_cast<std::int64_t>(c >> entry_bits >> kScoreBits); }
  __device__ float score(Candidate c) const {
    const std::uint32_t bits = kScoreMask - (static_cast<std::uint32_t>(c >> entry_bits) & kScoreMask) - 1;
    float score;
    std::memcpy(&score, &bits, sizeof(score));
    return score;
  }
  __device__ std::int64_t entry(Candidate c) const {
    return static_cast<std::int64_t>(c & ((Candidate{1} << entry_bits) - 1));
  }
};

// The k best scores above the floor of each class but the background, for so many images: (images, classes - 1, k),
// those of one class in the order of anchors, before what is empty. Equal scores take the lower anchors.
void best_of_each_class(const float* logits, std::int64_t images, std::int64_t n, std::int64_t classes, float floor,
                        std::int64_t k, CandidateLayout layout, Stream stream, Candidate* candidates);

}  // namespace visdeploy::cuda
