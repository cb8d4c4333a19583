// Neither AVX2 nor AVX-512: a sum takes four registers of sixteen.
#define CHRONOWARD_LEVEL v1
#define CHRONOWARD_ROWS 2
#define CHRONOWARD_PANELS 1
#include "core/decode_kernels.inl"
