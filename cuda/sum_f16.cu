#include "sum.cuh"

QUICK_SSM_ENTRY(quick_ssm_sum_f16, QUICK_SSM_NAMESPACE::Sum<QUICK_SSM_NAMESPACE::Half>)
