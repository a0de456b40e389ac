#pragma once

#include <string>
#include <vector>

namespace visdeploy {

// kAvx2 stands for AVX2, FMA and BMI (Haswell, Zen); kAvx512 for what Ice Lake and Zen 4 have, VBMI2 and GFNI included.
enum class Isa { kScalar, kAvx2, kAvx512 };

// The best that this machine runs, unless the environment variable VISDEPLOY_ISA names another; chosen at first call.
Isa isa();

// For tests: what this machine can run, what is in force, and a way to change it.
std::vector<std::string> isa_names();
std::string isa_name();
void set_isa(const std::string& name);

}  // namespace visdeploy

// What stands between these two is compiled for the named features, whatever the flags of the file. Includes come
// before: a shared inline function compiled in here could be the copy that the linker keeps for every machine.
#define VD_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define VD_TARGET_BEGIN(features) \
  VD_PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define VD_TARGET_END _Pragma("clang attribute pop")
#else
#define VD_TARGET_BEGIN(features) _Pragma("GCC push_options") VD_PRAGMA(GCC target(features))
#define VD_TARGET_END _Pragma("GCC pop_options")
#endif
#define VD_AVX2 "avx2,fma,bmi,bmi2,lzcnt,popcnt,f16c"
#define VD_AVX512                                                                               \
  "avx2,fma,bmi,bmi2,lzcnt,popcnt,f16c,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512vbmi," \
  "avx512vbmi2,avx512bitalg,avx512vpopcntdq,gfni"
