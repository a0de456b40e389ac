// No include guard: files include this inside their own namespaces, after exp_log.h. What is done to one side of a box,
// on every instruction set and on GPUs.

template <bool kWeights>
struct Decode {
  VD_INLINE void side(float offset, float log_size, float low, float high, float scale, float size_scale,
                      float* out_low, float* out_high) {
    // torchvision's guard against overflow, which belongs to its preset: log(1000 / 16).
    constexpr float kLargest = 4.135166556742356f;
    const float size = high - low;
    float centre, log_ratio = log_size / size_scale;
    if (kWeights) {
      centre = offset / scale * size + (low + 0.5f * size);
      log_ratio = log_ratio > kLargest ? kLargest : log_ratio;
    } else {
      centre = offset * size / scale + (low + high) / 2;
    }
    const float half = 0.5f * (static_cast<float>(exp(static_cast<double>(log_ratio))) * size);
    *out_low = centre - half;
    *out_high = centre + half;
  }
};

template <bool kWeights>
struct Encode {
  VD_INLINE void side(float box_low, float box_high, float low, float high, float scale, float size_scale,
                      float* offset, float* log_size) {
    const float size = high - low, box_size = box_high - box_low;
    if (kWeights) {
      *offset = scale * ((box_low + 0.5f * box_size) - (low + 0.5f * size)) / size;
      *log_size = size_scale * static_cast<float>(log(static_cast<double>(box_size / size)));
    } else {
      *offset = scale * ((box_low + box_high) / 2 - (low + high) / 2) / size;
      *log_size = size_scale * static_cast<float>(log(static_cast<double>(1e-6f + box_size / size)));
    }
  }
};
