"""visdeploy's native module with its CUDA kernels; `visdeploy` finds it here by itself."""
