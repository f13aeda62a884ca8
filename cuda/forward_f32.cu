#include "entries.cuh"

QUICK_SSM_ENTRIES(quick_ssm_forward_f32, Forward, Plain, Float)
QUICK_SSM_LARGE_ENTRY(quick_ssm_forward_f32, Forward, Plain, Float)
