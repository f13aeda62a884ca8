#include "entries.cuh"

QUICK_SSM_ENTRIES(quick_ssm_backward_f32, Backward, Plain, Float)
