# SPDX-License-Identifier: MIT
#
# The test guest's init and the observer of its ticks. Works from the top Makefile and, for
# guest/initrd, by itself: make -f guest/guest.mk

CC ?= cc
B  ?= build

GUEST_FLAGS := -std=gnu11 -D_GNU_SOURCE -O2 -Wall -Wextra -Wshadow -Wmissing-prototypes \
               -Wstrict-prototypes -Wvla -Wformat=2 $(WERROR)
GUEST_INIT  := $(addprefix guest/,init.c boot.c memory.c disk.c tick.c pattern.c)

.PHONY: guest
guest: $(B)/guest/init $(B)/guest/watch

# Static, since it is alone in its initramfs, and without sanitizers, which need /proc at start.
$(B)/guest/init: $(GUEST_INIT) guest/boot.h guest/guest.h guest/pattern.h
	@mkdir -p $(@D)
	$(CC) $(GUEST_FLAGS) -static -s -pthread -o $@ $(GUEST_INIT)
$(B)/guest/watch: guest/watch.c
	@mkdir -p $(@D)
	$(CC) $(GUEST_FLAGS) -o $@ $<
