// No include guard: every instruction set's file includes this inside its own namespace, and so do kernels of the GPU,
// for which core/cuda.cuh names the qualifier. What decides a pixel is computed by this one source everywhere.
#ifndef VD_DEVICE
#define VD_DEVICE
#endif

namespace {

// The source sample before an output position along one axis, and the weight of the one after it.
struct Tap {
  std::int32_t low;
  float weight;

  // A sample of weight zero is not looked at, so that a NaN in it does no harm.
  VD_DEVICE std::int32_t high() const { return low + (weight > 0 ? 1 : 0); }
};

// Of output position i, where `scale` is the size of the source over that of the output.
VD_DEVICE inline Tap tap(std::int64_t i, double scale, std::int64_t source) {
  const double last = static_cast<double>(source - 1);
  const double centre = (static_cast<double>(i) + 0.5) * scale - 0.5;
  const double at = centre < 0 ? 0 : centre > last ? last : centre;
  return {static_cast<std::int32_t>(at), static_cast<float>(at - std::floor(at))};
}

VD_DEVICE inline float between(float low, float high, float weight) { return low * (1 - weight) + high * weight; }

// Infinities would make NaN of a neighbour with weight zero; a number this large wins and loses just the same.
VD_DEVICE inline float finite(float value) {
  constexpr float kLargest = 0x1.fffffep126f;  // half of the largest
  value = kLargest < value ? kLargest : value;
  return value < -kLargest ? -kLargest : value;
}

}  // namespace
