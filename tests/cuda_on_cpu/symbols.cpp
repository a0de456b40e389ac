// Reads the module's own symbol table, because the static arrays of kernels, and the kernels, are not exported.
#include "symbols.h"

#include <cxxabi.h>
#include <dlfcn.h>
#include <elf.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>

namespace cuda_on_cpu {
namespace {

struct Module {
  std::map<const void*, std::string> functions;
  std::map<std::string, SharedArray> objects;
};

Module read_module(const char* path, char* base) {
  Module module;
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  if (bytes.size() < sizeof(Elf64_Ehdr)) return module;
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(bytes.data());
  const auto* sections = reinterpret_cast<const Elf64_Shdr*>(bytes.data() + header->e_shoff);
  if (header->e_type == ET_EXEC) base = nullptr;  // its addresses are absolute
  for (int i = 0; i < header->e_shnum; ++i) {
    if (sections[i].sh_type != SHT_SYMTAB) continue;
    const char* const names = bytes.data() + sections[sections[i].sh_link].sh_offset;
    const auto* symbols = reinterpret_cast<const Elf64_Sym*>(bytes.data() + sections[i].sh_offset);
    for (std::size_t s = 0; s < sections[i].sh_size / sizeof(Elf64_Sym); ++s) {
      const char* const name = names + symbols[s].st_name;
      void* const address = base + symbols[s].st_value;
      const int type = ELF64_ST_TYPE(symbols[s].st_info);
      if (type == STT_FUNC && std::strncmp(name, "_Z", 2) == 0) module.functions.emplace(address, name);
      if (type == STT_OBJECT && std::strncmp(name, "_ZZ", 3) == 0) {
        module.objects[name] = {address, static_cast<std::size_t>(symbols[s].st_size)};
      }
    }
  }
  return module;
}

std::string demangled(const std::string& name) {
  char* const text = abi::__cxa_demangle(name.c_str(), nullptr, nullptr, nullptr);
  const std::string result = text ? text : name;
  std::free(text);
  return result;
}

Kernel read_kernel(const void* address) {
  static std::map<std::string, Module> modules;
  Dl_info info;
  if (dladdr(address, &info) == 0) return {"a kernel", {}, 0};
  auto found = modules.find(info.dli_fname);
  if (found == modules.end()) {
    found = modules.emplace(info.dli_fname, read_module(info.dli_fname, static_cast<char*>(info.dli_fbase))).first;
  }
  const Module& module = found->second;
  const auto function = module.functions.find(address);
  if (function == module.functions.end()) return {"a kernel", {}, 0};
  Kernel kernel{demangled(function->second), {}, 0};
  // The array `tile` of the kernel _Z6kernelPi is called _ZZ6kernelPiE4tile.
  const std::string prefix = "_ZZ" + function->second.substr(2) + "E";
  for (auto at = module.objects.lower_bound(prefix); at != module.objects.end(); ++at) {
    if (at->first.compare(0, prefix.size(), prefix) != 0) break;
    kernel.shared.push_back(at->second);
    kernel.shared_bytes += at->second.bytes;
  }
  return kernel;
}

}  // namespace

const Kernel& find_kernel(const void* address) {
  static std::map<const void*, Kernel> kernels;
  const auto found = kernels.find(address);
  return found != kernels.end() ? found->second : kernels.emplace(address, read_kernel(address)).first->second;
}

}  // namespace cuda_on_cpu
