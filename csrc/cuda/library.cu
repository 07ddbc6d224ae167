// What the library says about itself.
#include "entry.cuh"

#ifndef VITKERN_ARCHITECTURES
#define VITKERN_ARCHITECTURES ""
#endif

VITKERN_EXPORT const char* vitkern_error() { return vitkern::error_message().c_str(); }

// Such as "80+PTX;90;120"; empty in emulation.
VITKERN_EXPORT const char* vitkern_architectures() { return VITKERN_ARCHITECTURES; }

// Of the CUDA runtime in the library and of the machine's driver: 13.1 is 13010, none 0.
VITKERN_EXPORT void vitkern_versions(int* runtime, int* driver) {
  *runtime = *driver = 0;
#ifndef VITKERN_EMULATED
  cudaRuntimeGetVersion(runtime);
  if (cudaDriverGetVersion(driver) != cudaSuccess) *driver = 0;
#endif
}
