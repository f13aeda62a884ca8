// The entry points of one direction and type. A `_vector` kernel needs channel stride 1, and addresses, batch and
// time strides and D that are multiples of its access width; an `_element` kernel takes any layout.
#pragma once

#include "backward.cuh"
#include "forward.cuh"

#define QUICK_SSM_ENTRIES(name, Kernel, Type)                                                                  \
    QUICK_SSM_ENTRY(name##_vector, QUICK_SSM_NAMESPACE::Kernel<QUICK_SSM_NAMESPACE::Type, true, false>)         \
    QUICK_SSM_ENTRY(name##_element, QUICK_SSM_NAMESPACE::Kernel<QUICK_SSM_NAMESPACE::Type, false, false>)       \
    QUICK_SSM_ENTRY(name##_vector_packed, QUICK_SSM_NAMESPACE::Kernel<QUICK_SSM_NAMESPACE::Type, true, true>)   \
    QUICK_SSM_ENTRY(name##_element_packed, QUICK_SSM_NAMESPACE::Kernel<QUICK_SSM_NAMESPACE::Type, false, true>)
