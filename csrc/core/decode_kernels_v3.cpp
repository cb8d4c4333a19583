// AVX2 with FMA: a sum takes two registers of sixteen.
#define CHRONOWARD_LEVEL v3
#define CHRONOWARD_ROWS 4
#define CHRONOWARD_PANELS 1
#include "core/decode_kernels.inl"
