#include "ops/boxes_cuda.cuh"

namespace visdeploy::cuda {
namespace {

// One thread per box, over all images. Neighbours read neighbouring rows, so that the four reads of a row are one of
// memory; the anchors, which images share, come from the cache after the first.
__global__ void decode_kernel(const float* offsets, const float* anchors, std::int64_t rows, std::int64_t n,
                              BoxCoder coder, bool clips, Clip limits, float* out) {
  for (std::int64_t i = grid_index(); i < rows; i += grid_step()) {
    const float4 box = decode_box(load_box(offsets + 4 * i), load_box(anchors + 4 * (i % n)), coder);
    store_box(out + 4 * i, clips ? clip_box(box, limits) : box);
  }
}

// As decode_kernel.
__global__ void encode_kernel(const float* boxes, const float* anchors, std::int64_t rows, std::int64_t n,
                              BoxCoder coder, float* out) {
  for (std::int64_t i = grid_index(); i < rows; i += grid_step()) {
    store_box(out + 4 * i, encode_box(load_box(boxes + 4 * i), load_box(anchors + 4 * (i % n)), coder));
  }
}

}  // namespace

void decode_boxes(const Tensor& offsets, const Tensor& anchors, const BoxCoder& coder, const ClipSize& clip,
                  Stream stream, float* out) {
  const Scope scope("decode_boxes", stream);
  const Contiguous<float> from(offsets, stream), at(anchors, stream);
  const Clip limits = clip ? Clip{static_cast<float>(clip->first), static_cast<float>(clip->second)} : Clip{};
  const std::int64_t rows = offsets.size() / 4;
  launch(decode_kernel, blocks_for(rows), kThreads, stream, from.data(), at.data(), rows, anchors.size() / 4, coder,
         clip.has_value(), limits, out);
}

void encode_boxes(const Tensor& boxes, const Tensor& anchors, const BoxCoder& coder, Stream stream, float* out) {
  const Scope scope("encode_boxes", stream);
  const Contiguous<float> from(boxes, stream), at(anchors, stream);
  const std::int64_t rows = boxes.size() / 4;
  launch(encode_kernel, blocks_for(rows), kThreads, stream, from.data(), at.data(), rows, anchors.size() / 4, coder,
         out);
}

}  // namespace visdeploy::cuda
