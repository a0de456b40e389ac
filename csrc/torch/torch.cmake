# torch.ops.visdeploy as a shared library on torch's stable ABI: that of 2.10, whichever newer torch it is built with.
# Of Python it needs only to know where torch is.
execute_process(
  COMMAND ${Python_EXECUTABLE} -c "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '', end='')"
  OUTPUT_VARIABLE torch_dir)
set(why "")
if(NOT torch_dir)
  set(why "${Python_EXECUTABLE} has no torch")
elseif(NOT EXISTS ${torch_dir}/include/torch/headeronly/version.h)
  set(why "the torch in ${torch_dir} is older than 2.10, or has no headers")
else()
  file(STRINGS ${torch_dir}/include/torch/headeronly/version.h version REGEX "VERSION_(MAJOR|MINOR) ")
  string(REGEX REPLACE "[^0-9;]" "" version "${version}")
  list(JOIN version "." version)
  if(version VERSION_LESS 2.10)
    set(why "the torch in ${torch_dir} is ${version}, and 2.10 is needed")
  endif()
endif()
if(why AND NOT VISDEPLOY_TORCH STREQUAL "AUTO")
  message(FATAL_ERROR "VISDEPLOY_TORCH is ${VISDEPLOY_TORCH}, but ${why}")
elseif(why)
  message(STATUS "Left out torch.ops.visdeploy: ${why}")
  return()
endif()
message(STATUS "torch.ops.visdeploy on the torch ${version} in ${torch_dir}")

file(GLOB TORCH_SOURCES CONFIGURE_DEPENDS csrc/torch/*.cpp)
set(TORCH_OPS visdeploy_torch)
add_library(visdeploy_torch SHARED ${TORCH_SOURCES})
set_target_properties(visdeploy_torch PROPERTIES PREFIX "")
target_compile_definitions(visdeploy_torch PRIVATE TORCH_TARGET_VERSION=0x020a000000000000)
# torch prints the names of source files with its errors: ours, without the folders of whoever built it.
target_compile_options(visdeploy_torch PRIVATE
  -ffile-prefix-map=${CMAKE_SOURCE_DIR}/= -ffile-prefix-map=${torch_dir}/=torch/)
target_include_directories(visdeploy_torch SYSTEM PRIVATE ${torch_dir}/include)
# Whoever loads it has loaded torch already, wherever that is; so no path to it is kept.
target_link_libraries(visdeploy_torch PRIVATE visdeploy_core ${torch_dir}/lib/libtorch_cpu.so)
set_target_properties(visdeploy_torch PROPERTIES BUILD_WITH_INSTALL_RPATH ON INSTALL_RPATH "")

# For C++ programs: find_package(visdeploy) in the folder that `visdeploy --cmake-dir` prints.
install(FILES csrc/torch/visdeployConfig.cmake DESTINATION ${VISDEPLOY_PACKAGE})
