#include "entries.cuh"

QUICK_SSM_ENTRIES(quick_ssm_gated_backward_f16, Backward, Gated, Half)
