#include "core/cuda.cuh"
#include "ops/rle.h"

namespace visdeploy::cuda {
namespace {

// Memory of the host that every device writes to by the same address. Each thread keeps its own, as it is slow to come
// by.
class Mailbox {
 public:
  Mailbox() = default;
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;
  ~Mailbox() { free(); }

  std::byte* room_for(std::int64_t bytes) {
    if (bytes <= room_) return host_;
    free();
    void* memory;
    const Uncaptured uncaptured;
    VD_CUDA(cudaHostAlloc(&memory, static_cast<std::size_t>(bytes), cudaHostAllocPortable));
    room_ = bytes;
    return host_ = static_cast<std::byte*>(memory);
  }

 private:
  void free() {
    const Uncaptured uncaptured;
    if (host_) cudaFreeHost(host_);
    host_ = nullptr;
    room_ = 0;
  }

  std::byte* host_ = nullptr;
  std::int64_t room_ = 0;
};

// One thread per 16 bytes of text, and one per offset: only what there is crosses the bus, in whole lines.
__global__ void deliver_kernel(const char* text, std::int64_t capacity, const std::int64_t* offsets, std::int64_t n,
                               char* host_text, std::int64_t* host_offsets) {
  const std::int64_t bytes = offsets[n] > capacity ? 0 : offsets[n];
  for (std::int64_t i = grid_index(); i <= n; i += grid_step()) host_offsets[i] = offsets[i];
  for (std::int64_t i = grid_index(); i < bytes / 16; i += grid_step()) {
    reinterpret_cast<uint4*>(host_text)[i] = reinterpret_cast<const uint4*>(text)[i];
  }
  for (std::int64_t i = bytes / 16 * 16 + grid_index(); i < bytes; i += grid_step()) host_text[i] = text[i];
}

// Several times what masks of objects take: their columns have few runs, which take a byte or two.
std::int64_t usual_capacity(std::int64_t n, std::int64_t height, std::int64_t width) {
  constexpr std::int64_t kMost = std::int64_t{1} << 26;
  const std::int64_t of_one = 64 + 8 * width + height * width / 64;
  return n > kMost / of_one ? kMost : n * of_one;
}

}  // namespace

std::vector<std::string> read_texts(const char* op, std::int64_t n, std::int64_t height, std::int64_t width,
                                    Stream stream, const std::function<void(const TextsOut&)>& encode) {
  constexpr std::int64_t kBlocks = 64;  // enough to fill a bus
  thread_local Mailbox mailbox;
  const Scope scope(op, stream);
  for (std::int64_t capacity = usual_capacity(n, height, width);;) {
    const Memory<char> text(stream, capacity);
    const Memory<std::int64_t> offsets(stream, n + 1);
    encode({text.data(), capacity, offsets.data()});

    const std::int64_t offsets_bytes = (n + 1) * static_cast<std::int64_t>(sizeof(std::int64_t));
    const std::int64_t text_at = (offsets_bytes + 15) / 16 * 16;
    std::byte* const host = mailbox.room_for(text_at + capacity);
    auto* const host_offsets = reinterpret_cast<std::int64_t*>(host);
    auto* const host_text = reinterpret_cast<char*>(host + text_at);
    launch(deliver_kernel, kBlocks, kThreads, stream, text.data(), capacity, offsets.data(), n, host_text,
           host_offsets);
    VD_CUDA(cudaStreamSynchronize(handle(stream)));
    if (host_offsets[n] > capacity) {
      capacity = host_offsets[n];
      continue;
    }
    std::vector<std::string> texts;
    texts.reserve(static_cast<std::size_t>(n));
    for (std::int64_t i = 0; i < n; ++i) {
      texts.emplace_back(host_text + host_offsets[i], host_text + host_offsets[i + 1]);
    }
    return texts;
  }
}

}  // namespace visdeploy::cuda
