#include "core/isa.h"

#include <atomic>
#include <cstdlib>

#include "core/error.h"

namespace visdeploy {
namespace {

constexpr const char* kNames[] = {"scalar", "avx2", "avx512"};

Isa best() {
#if defined(__x86_64__)
  // GCC asks the operating system too, whether it saves the wider registers.
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
  const bool avx512 = __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512bitalg") &&
                      __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("gfni");
  if (avx2) return avx512 ? Isa::kAvx512 : Isa::kAvx2;
#endif
  return Isa::kScalar;
}

Isa named(const std::string& name) {
  for (int i = 0; i <= static_cast<int>(best()); ++i) {
    if (name == kNames[i]) return static_cast<Isa>(i);
  }
  throw InputError(message("[isa] VISDEPLOY_ISA: expected scalar, avx2 or avx512, of which this machine runs ",
                           kNames[static_cast<int>(best())], " and those before it, got '", name, "'"));
}

std::atomic<Isa>& chosen() {
  static std::atomic<Isa> isa = [] {
    const char* name = std::getenv("VISDEPLOY_ISA");
    return name && *name ? named(name) : best();
  }();
  return isa;
}

}  // namespace

Isa isa() { return chosen().load(std::memory_order_relaxed); }

std::vector<std::string> isa_names() { return {kNames, kNames + static_cast<int>(best()) + 1}; }

std::string isa_name() { return kNames[static_cast<int>(isa())]; }

void set_isa(const std::string& name) { chosen() = named(name); }

}  // namespace visdeploy
