#pragma once

// Goes on where another stack left off: saves the registers that a function must keep, and the stack pointer in *from.
extern "C" __attribute__((visibility("hidden"))) void cuda_on_cpu_switch(void** from, void* to);

namespace cuda_on_cpu {

// What to switch to for entry() to start on a stack that ends at `top`, a multiple of 16. It must not return.
void* first_frame(char* top, void (*entry)());

}  // namespace cuda_on_cpu
