#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace cuda_on_cpu {

struct SharedArray {
  void* address;
  std::size_t bytes;
};

// What the symbol table of the kernel's module tells; nothing where it was stripped.
struct Kernel {
  std::string name;
  std::vector<SharedArray> shared;  // those that the kernel itself declares, not the functions that it calls
  std::size_t shared_bytes = 0;
};

const Kernel& find_kernel(const void* address);

}  // namespace cuda_on_cpu
