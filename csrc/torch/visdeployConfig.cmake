# visdeploy::torch_ops, the library that registers torch.ops.visdeploy.*, which exported TorchScript files call.
#
# Linked to a program it is loaded with it, though the program calls none of its symbols.
get_filename_component(_visdeploy_library "${CMAKE_CURRENT_LIST_DIR}/visdeploy_torch.so" ABSOLUTE)
if(NOT EXISTS ${_visdeploy_library})
  set(visdeploy_FOUND FALSE)
  set(visdeploy_NOT_FOUND_MESSAGE "There is no ${_visdeploy_library}: this visdeploy was built without torch.")
  return()
endif()
if(NOT TARGET visdeploy::torch_ops)
  add_library(visdeploy::torch_ops SHARED IMPORTED)
  set_target_properties(visdeploy::torch_ops PROPERTIES
    IMPORTED_LOCATION ${_visdeploy_library}
    INTERFACE_LINK_OPTIONS "LINKER:--no-as-needed")
endif()
