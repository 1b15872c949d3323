# SPDX-License-Identifier: MIT
#
# The VM bench, one program of several files. It runs build/pageferry and build/guest/watch.

VM_BENCH_O := $(patsubst bench/vm/%.c,$(B)/bench/vm.o/%.o,$(wildcard bench/vm/*.c))

benches: $(B)/bench/vm

$(B)/bench/vm.o/%.o: bench/vm/%.c
	@mkdir -p $(@D)
	$(COMPILE) -c -o $@ $<
$(B)/bench/vm: $(VM_BENCH_O) $(addprefix $(B)/tools/,qmp.o json_get.o say.o) | all guest
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(SAN) -pthread $(LDFLAGS) -o $@ $(filter %.o,$^) -ljson-c -lm
