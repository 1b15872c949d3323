# SPDX-License-Identifier: MIT
#
# make            library, command and preload into build/
# make demo       the main job, on a fresh machine: installs what is missing, then shows it
# make check      the tests, on a fresh machine: installs what is missing, then runs all
# make check-debug  the same under sanitizers, then the analyzers
# make kmod       the kernel module build/kmod/pageferry.ko, for KDIR or as scripts/kmod-headers says;
#                 PARK=1: the one of tests/guest/module_park.sh, build/kmod/park/pageferry.ko
# make install    with DESTDIR and PREFIX
# make install-kmod  the module's sources, for DKMS, with DESTDIR

VERSION := $(shell cat VERSION)
ABI     := 0

PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
DATADIR ?= $(PREFIX)/share/pageferry
B      ?= build

CC     ?= cc
OBJCOPY ?= objcopy
CFLAGS ?= -O2 -g
WARN   := -Wall -Wextra -Wshadow -Wmissing-prototypes -Wstrict-prototypes -Wvla -Wformat=2
BASE   := -std=gnu11 -D_GNU_SOURCE -Iinclude -I. -fPIC -fvisibility=hidden -pthread \
          -DPAGEFERRY_VERSION='"$(VERSION)"' -DPAGEFERRY_LIBDIR='"$(LIBDIR)"' \
          -DPAGEFERRY_DATADIR='"$(DATADIR)"' $(WARN) $(WERROR)
SAN    ?=
# make V=1 shows the commands; it must not become the first target then.
.DEFAULT_GOAL := all
$(V).SILENT:

COMPILE = $(CC) $(BASE) $(CPPFLAGS) $(CFLAGS) $(SAN) -MMD -MP

LIB_O     := $(patsubst %.c,$(B)/%.o,$(wildcard lib/*.c))
# The library of the tests has parking points, see lib/park.h.
TEST_O    := $(patsubst %.c,$(B)/park/%.o,$(wildcard lib/*.c))
PRELOAD_O := $(patsubst %.c,$(B)/%.o,$(wildcard preload/*.c))
PARKED_O  := $(patsubst %.c,$(B)/park/%.o,$(wildcard preload/*.c))
TOOL_O    := $(patsubst %.c,$(B)/%.o,$(wildcard tools/*.c))
PARKED_TOOL_O := $(patsubst %.c,$(B)/park/%.o,$(wildcard tools/*.c))
BENCHES   := $(patsubst %.c,$(B)/%,$(wildcard bench/*.c))
EXAMPLES  := $(patsubst %.c,$(B)/%,$(wildcard examples/*.c))
TESTS     := $(patsubst %.c,$(B)/%,$(wildcard $(foreach k,unit uffd race cli vm,tests/$(k)/*.c)))
FUZZERS   := $(patsubst %.c,$(B)/%,$(wildcard tests/fuzz/*.c))
TEST_LIB  := $(patsubst %.c,$(B)/%.o,$(wildcard tests/lib/*.c))

.PHONY: all tests benches examples demo check check-debug kmod install install-kmod \
        uninstall clean
all: $(B)/libpageferry.a $(B)/libpageferry.so $(B)/libpageferry-preload.so $(B)/pageferry

# One object, in which the library's own names are local: they must not clash with a program's.
$(B)/libpageferry.a: $(LIB_O)
	$(LD) -r -o $(B)/libpageferry.o $^
	$(OBJCOPY) --localize-hidden $(B)/libpageferry.o
	rm -f $@
	$(AR) rcs $@ $(B)/libpageferry.o
$(B)/libpageferry.so: $(LIB_O) lib/libpageferry.map
	$(CC) $(CFLAGS) $(SAN) -shared -pthread -Wl,-soname,libpageferry.so.$(ABI) \
		-Wl,--version-script=lib/libpageferry.map $(LDFLAGS) -o $@ $(LIB_O)
	ln -sf libpageferry.so $@.$(ABI)
$(B)/libpageferry-preload.so: $(PRELOAD_O) $(LIB_O) preload/preload.map
	$(CC) $(CFLAGS) $(SAN) -shared -pthread -Wl,--version-script=preload/preload.map \
		$(LDFLAGS) -o $@ $(PRELOAD_O) $(LIB_O) -ldl
# The probe shows more than the library's own call tells.
$(B)/pageferry: $(TOOL_O) $(LIB_O)
	$(CC) $(CFLAGS) $(SAN) -pthread $(LDFLAGS) -o $@ $^ -ljson-c -lzstd

$(B)/park/libpageferry.a: $(TEST_O)
	$(AR) rcs $@ $^
$(B)/park/libpageferry-preload.so: $(PARKED_O) $(TEST_O) preload/preload.map
	$(CC) $(CFLAGS) $(SAN) -shared -pthread -Wl,--version-script=preload/preload.map \
		$(LDFLAGS) -o $@ $(PARKED_O) $(TEST_O) -ldl

$(B)/park/pageferry: $(PARKED_TOOL_O) $(TEST_O)
	$(CC) $(CFLAGS) $(SAN) -pthread $(LDFLAGS) -o $@ $^ -ljson-c -lzstd

tests: $(TESTS) $(FUZZERS) guest $(B)/park/libpageferry-preload.so $(B)/park/pageferry all examples benches
benches: $(BENCHES)
examples: $(EXAMPLES)

$(B)/bench/%: bench/%.c $(B)/libpageferry.a
	@mkdir -p $(@D)
	$(COMPILE) -o $@ $< $(filter %.o,$^) $(B)/libpageferry.a $(LDFLAGS) -ljson-c -lm
$(B)/examples/%: examples/%.c $(B)/libpageferry.a
	@mkdir -p $(@D)
	$(COMPILE) -o $@ $< $(B)/libpageferry.a $(LDFLAGS)
$(B)/tests/lib/%.o: tests/lib/%.c
	@mkdir -p $(@D)
	$(COMPILE) -DFERRY_PARK -c -o $@ $<
$(B)/tests/%: tests/%.c $(TEST_LIB) $(B)/park/libpageferry.a
	@mkdir -p $(@D)
	$(COMPILE) -DFERRY_PARK -o $@ $< $(TEST_LIB) $(B)/park/libpageferry.a $(LDFLAGS) -lcmocka -ljson-c

# What the test of examples/kv.c upgrades to: with parking points and less patience; with another layout.
$(B)/park/examples/kv: examples/kv.c $(B)/park/libpageferry.a
	@mkdir -p $(@D)
	$(COMPILE) -DFERRY_PARK -DUPGRADE_SECONDS=2 -o $@ $< $(B)/park/libpageferry.a $(LDFLAGS)
$(B)/park/examples/kv2: examples/kv.c $(B)/park/libpageferry.a
	@mkdir -p $(@D)
	$(COMPILE) -DFERRY_PARK -DKV_LAYOUT='"kv layout 3"' -o $@ $< $(B)/park/libpageferry.a $(LDFLAGS)
$(B)/tests/cli/kv: $(B)/examples/kv $(B)/park/examples/kv $(B)/park/examples/kv2
$(B)/tests/cli/kv_save: $(B)/examples/kv

$(B)/park/%.o: %.c
	@mkdir -p $(@D)
	$(COMPILE) -DFERRY_PARK -c -o $@ $<
$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(COMPILE) -c -o $@ $<

# The demo's packages don't include those of the tests, and the guest's init needs none.
demo: BUILT = $(B)/bench/vm $(B)/tests/guest/init
check check-debug: BUILT = all tests
demo check check-debug:
	@scripts/install-deps $@
	@$(MAKE) --no-print-directory -j2 $(BUILT)
	@scripts/$@

kmod:
	@scripts/install-deps $@
	@kdir=$$(scripts/kmod-headers) && $(MAKE) --no-print-directory -C kmod \
		B='$(abspath $(B))/kmod$(if $(PARK),/park)' PARK='$(PARK)' KDIR="$$kdir" V='$(V)' WERROR='$(WERROR)'

install: all $(BENCHES)
	install -d "$(DESTDIR)$(PREFIX)/bin" "$(DESTDIR)$(LIBDIR)/pkgconfig" "$(DESTDIR)$(PREFIX)/include" \
		"$(DESTDIR)$(PREFIX)/share/man/man1" "$(DESTDIR)$(PREFIX)/share/man/man3" \
		"$(DESTDIR)$(DATADIR)/expected" "$(DESTDIR)$(LIBDIR)/pageferry/bench"
	install -m 755 $(BENCHES) "$(DESTDIR)$(LIBDIR)/pageferry/bench/"
	install -m 755 $(B)/pageferry "$(DESTDIR)$(PREFIX)/bin/"
	install -m 644 $(B)/libpageferry.a "$(DESTDIR)$(LIBDIR)/"
	install -m 755 $(B)/libpageferry.so "$(DESTDIR)$(LIBDIR)/libpageferry.so.$(VERSION)"
	ln -sf libpageferry.so.$(VERSION) "$(DESTDIR)$(LIBDIR)/libpageferry.so.$(ABI)"
	ln -sf libpageferry.so.$(ABI) "$(DESTDIR)$(LIBDIR)/libpageferry.so"
	install -m 755 $(B)/libpageferry-preload.so "$(DESTDIR)$(LIBDIR)/"
	install -m 644 include/pageferry.h "$(DESTDIR)$(PREFIX)/include/"
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@VERSION@|$(VERSION)|' \
		lib/libpageferry.pc.in >"$(DESTDIR)$(LIBDIR)/pkgconfig/libpageferry.pc"
	install -m 644 man/*.1 "$(DESTDIR)$(PREFIX)/share/man/man1/"
	install -m 644 man/*.3 "$(DESTDIR)$(PREFIX)/share/man/man3/"
	install -m 644 share/expected/* "$(DESTDIR)$(DATADIR)/expected/"

# The folders are as here, since kmod/Makefile looks for the ioctl header beside its own folder.
KMOD_SRC := $(DESTDIR)/usr/src/pageferry-$(VERSION)
install-kmod:
	install -d "$(KMOD_SRC)/include/linux"
	install -m 644 dkms.conf VERSION COPYING LICENSES/GPL-2.0-only.txt "$(KMOD_SRC)/"
	install -m 644 include/linux/pageferry.h "$(KMOD_SRC)/include/linux/"
	cd kmod && find . -path ./user -prune -o -type f -print | while IFS= read -r file; do \
		install -D -m 644 "$$file" "$(KMOD_SRC)/kmod/$$file" || exit; done

uninstall:
	rm -f "$(DESTDIR)$(PREFIX)/bin/pageferry" "$(DESTDIR)$(LIBDIR)"/libpageferry* \
		"$(DESTDIR)$(LIBDIR)/pkgconfig/libpageferry.pc" "$(DESTDIR)$(PREFIX)/include/pageferry.h"
	rm -rf "$(DESTDIR)$(DATADIR)" "$(DESTDIR)$(LIBDIR)/pageferry"
	for page in $(notdir $(wildcard man/*)); do \
		rm -f "$(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$$page" || exit; done

clean:
	rm -rf $(B)

include guest/guest.mk
include tests/guest/guest.mk
-include bench/vm/vm.mk

-include $(shell find $(B) -name '*.d' 2>/dev/null)
