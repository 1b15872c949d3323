# SPDX-License-Identifier: MIT
#
# PID 1 of the guest in which the kernel module is tested: static, since it is alone in its initramfs.

GUEST_TEST_C := $(wildcard tests/guest/*.[cS]) guest/boot.c guest/pattern.c
GUEST_TEST_H := $(wildcard tests/guest/*.h) guest/boot.h guest/pattern.h lib/uffd_abi.h \
                include/linux/pageferry.h

# Not with a library that has sanitizers in it: they are not for PID 1.
ifeq ($(SAN),)
tests: $(B)/tests/guest/init
endif
$(B)/tests/guest/init: $(GUEST_TEST_C) $(GUEST_TEST_H) $(B)/libpageferry.a
	@mkdir -p $(@D)
	$(CC) $(GUEST_FLAGS) -g -Iinclude -I. -static -pthread -o $@ \
		$(GUEST_TEST_C) $(B)/libpageferry.a
