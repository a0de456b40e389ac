"""visdeploy's native module with its CUDA kernels; `visdeploy` of the same version finds it here by itself."""

__version__ = "0.1.0"
