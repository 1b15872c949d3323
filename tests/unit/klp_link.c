/* SPDX-License-Identifier: MIT */
/*
 * The last step of linking the kernel module: what it makes of a good module, what it refuses, and
 * that a damaged file gives one line and no output.
 */
#include <sys/wait.h>

#include "tests/lib/test.h"

int klp_link_main(int argc, char **argv);
/* A leak check for each of thousands of runs would take minutes. */
#define main klp_link_main
#define exit _exit
#include "kmod/klp_link.c" /* NOLINT(bugprone-suspicious-include) */
#undef main
#undef exit

/* The sections of the module that is linked. */
enum {
	S_NULL,
	S_TEXT,
	S_RELA_TEXT,
	S_DATA,
	S_RELA_DATA,
	S_NOTE, /* isn't loaded */
	S_RELA_NOTE,
	S_MODINFO,
	S_VERSIONS,
	S_SYMTAB,
	S_STRTAB,
	S_SHSTRTAB,
	S_COUNT,
};
#define SHSTRINGS                                                                                    \
	"\0.text\0.rela.text\0.data\0.rela.data\0.note\0.rela.note\0.modinfo\0__versions\0.symtab\0" \
	".strtab\0.shstrtab"

enum { Y_NULL, Y_LOCAL, Y_EXPORTED, Y_FUNCTION, Y_DATA, Y_WEAK, Y_COUNT };
#define STRINGS "\0local\0exported\0function\0data\0weak"

struct module {
	Elf64_Ehdr eh;
	Elf64_Shdr sh[S_COUNT];
	Elf64_Sym sym[Y_COUNT];
	Elf64_Rela text_rela[4], data_rela[1], note_rela[1];
	struct version versions[3];
	char text[32], data[8], note[8], modinfo[32], strtab[sizeof(STRINGS)],
		shstrtab[sizeof(SHSTRINGS)];
};

#define SYMBOLS "# what is used\n\nfunction\t# a comment\n  data\r\nexported\n"
#define SYMVERS                                                                                    \
	"0x12345678\texported\tvmlinux\tEXPORT_SYMBOL_GPL\t\n"                                     \
	"0x00000001\tmodule_layout\tvmlinux\tEXPORT_SYMBOL\t\n"

static char dir[] = "/tmp/klp_link.XXXXXX";
static char in[64], out[64], symbols[64], symvers[64], said[64];
static char message[4096];

static void put_file(const char *path, const void *data, size_t len)
{
	FILE *f = fopen(path, "wb");

	assert_non_null(f);
	assert_int_equal(fwrite(data, 1, len, f), len);
	assert_int_equal(fclose(f), 0);
}

static uint32_t name_at(const char *table, size_t size, const char *name)
{
	for (size_t at = 0; at < size; at += strlen(table + at) + 1)
		if (!strcmp(table + at, name))
			return at;
	fail_msg("no %s", name);
	return 0;
}

#define PLACE(m, i, name_, type_, member, ...)                                                     \
	((m)->sh[i] = (Elf64_Shdr){.sh_name = name_at(SHSTRINGS, sizeof(SHSTRINGS), name_),        \
				   .sh_type = (type_),                                             \
				   .sh_offset = offsetof(struct module, member),                   \
				   .sh_size = sizeof((m)->member),                                 \
				   .sh_addralign = 8,                                              \
				   __VA_ARGS__})
#define RELA(at, symbol, type)                                                                     \
	((Elf64_Rela){.r_offset = (at),                                                            \
		      .r_info = ELF64_R_INFO((uint64_t)(symbol), type),                            \
		      .r_addend = -4})

static void fill_sections(struct module *m)
{
	PLACE(m, S_TEXT, ".text", SHT_PROGBITS, text, .sh_flags = SHF_ALLOC | SHF_EXECINSTR);
	PLACE(m, S_RELA_TEXT, ".rela.text", SHT_RELA, text_rela, .sh_link = S_SYMTAB,
	      .sh_info = S_TEXT, .sh_flags = SHF_INFO_LINK, .sh_entsize = sizeof(Elf64_Rela));
	PLACE(m, S_DATA, ".data", SHT_PROGBITS, data, .sh_flags = SHF_ALLOC | SHF_WRITE);
	PLACE(m, S_RELA_DATA, ".rela.data", SHT_RELA, data_rela, .sh_link = S_SYMTAB,
	      .sh_info = S_DATA, .sh_flags = SHF_INFO_LINK, .sh_entsize = sizeof(Elf64_Rela));
	PLACE(m, S_NOTE, ".note", SHT_PROGBITS, note);
	PLACE(m, S_RELA_NOTE, ".rela.note", SHT_RELA, note_rela, .sh_link = S_SYMTAB,
	      .sh_info = S_NOTE, .sh_flags = SHF_INFO_LINK, .sh_entsize = sizeof(Elf64_Rela));
	PLACE(m, S_MODINFO, ".modinfo", SHT_PROGBITS, modinfo, .sh_flags = SHF_ALLOC);
	PLACE(m, S_VERSIONS, "__versions", SHT_PROGBITS, versions, .sh_flags = SHF_ALLOC);
	PLACE(m, S_SYMTAB, ".symtab", SHT_SYMTAB, sym, .sh_link = S_STRTAB, .sh_info = Y_EXPORTED,
	      .sh_entsize = sizeof(Elf64_Sym));
	PLACE(m, S_STRTAB, ".strtab", SHT_STRTAB, strtab);
	PLACE(m, S_SHSTRTAB, ".shstrtab", SHT_STRTAB, shstrtab);
}

static void fill_module(struct module *m)
{
	static const char modinfo[] = "license=GPL\0livepatch=Y";
	static const char *const names[] = {"", "local", "exported", "function", "data", "weak"};
	static const char *const versions[] = {"exported", "function", "module_layout"};

	memset(m, 0, sizeof(*m));
	memcpy(m->eh.e_ident, ELFMAG, SELFMAG);
	m->eh.e_ident[EI_CLASS] = ELFCLASS64;
	m->eh.e_ident[EI_DATA] = ELFDATA2LSB;
	m->eh.e_type = ET_REL;
	m->eh.e_machine = EM_X86_64;
	m->eh.e_shoff = offsetof(struct module, sh);
	m->eh.e_shentsize = sizeof(Elf64_Shdr);
	m->eh.e_shnum = S_COUNT;
	m->eh.e_shstrndx = S_SHSTRTAB;
	fill_sections(m);
	for (int i = Y_LOCAL; i < Y_COUNT; i++) {
		m->sym[i].st_name = name_at(STRINGS, sizeof(STRINGS), names[i]);
		m->sym[i].st_info = ELF64_ST_INFO(STB_GLOBAL, STT_NOTYPE);
	}
	m->sym[Y_LOCAL].st_info = ELF64_ST_INFO(STB_LOCAL, STT_FUNC);
	m->sym[Y_LOCAL].st_shndx = S_TEXT;
	m->sym[Y_WEAK].st_info = ELF64_ST_INFO(STB_WEAK, STT_NOTYPE);
	m->text_rela[0] = RELA(0, Y_FUNCTION, R_X86_64_PLT32);
	m->text_rela[1] = RELA(8, Y_EXPORTED, R_X86_64_PLT32);
	m->text_rela[2] = RELA(16, Y_DATA, R_X86_64_PC32);
	m->text_rela[3] = RELA(24, Y_LOCAL, R_X86_64_PC32);
	m->data_rela[0] = RELA(0, Y_DATA, R_X86_64_64);
	m->note_rela[0] = RELA(0, Y_FUNCTION, R_X86_64_64);
	memcpy(m->modinfo, modinfo, sizeof(modinfo));
	memcpy(m->strtab, STRINGS, sizeof(STRINGS));
	memcpy(m->shstrtab, SHSTRINGS, sizeof(SHSTRINGS));
	for (size_t i = 0; i < COUNT(versions); i++)
		memcpy(m->versions[i].name, versions[i], strlen(versions[i]));
}

/* Links what @in holds, in a child, since the program ends itself; returns its status. */
static int run_link(bool with_symvers)
{
	char *argv[] = {"klp_link", in, out, symbols, with_symvers ? symvers : NULL, NULL};
	int status;
	size_t len;
	pid_t pid;
	FILE *f;

	fflush(NULL);
	pid = fork();
	assert_true(pid >= 0);
	if (!pid) {
		if (!freopen(said, "w", stderr) || setvbuf(stderr, NULL, _IONBF, 0))
			_exit(99);
		_exit(klp_link_main(4 + with_symvers, argv));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	f = fopen(said, "rb");
	assert_non_null(f);
	len = fread(message, 1, sizeof(message) - 1, f);
	message[len] = '\0';
	fclose(f);
	if (!WIFEXITED(status))
		fail_msg("klp_link: killed by signal %d: %s", WTERMSIG(status), message);
	return WEXITSTATUS(status);
}

static int link_module(const struct module *m)
{
	put_file(in, m, sizeof(*m));
	return run_link(true);
}

/* It says @why, and the output stays what it was. */
static void refused(int status, const char *why)
{
	struct buf b;

	assert_int_equal(status, 1);
	if (!strstr(message, why))
		fail_msg("expected \"%s\", got: %s", why, message);
	b = read_file(out);
	assert_int_equal(b.len, 3);
	assert_memory_equal(b.p, "old", 3);
	free(b.p);
}

static int setup(void **state)
{
	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(in, sizeof(in), "%s/in.ko", dir);
	snprintf(out, sizeof(out), "%s/out.ko", dir);
	snprintf(symbols, sizeof(symbols), "%s/symbols", dir);
	snprintf(symvers, sizeof(symvers), "%s/Module.symvers", dir);
	snprintf(said, sizeof(said), "%s/said", dir);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	unlink(in);
	unlink(out);
	unlink(symbols);
	unlink(symvers);
	unlink(said);
	/* Fails if something was left there. */
	return rmdir(dir);
}

static int begin(void **state)
{
	put_file(symbols, SYMBOLS, strlen(SYMBOLS));
	put_file(symvers, SYMVERS, strlen(SYMVERS));
	put_file(out, "old", 3);
	return test_begin(state);
}

/* ---- a good module ---- */

struct result {
	struct buf file;
	const Elf64_Ehdr *eh;
	const Elf64_Shdr *sh;
	const Elf64_Sym *sym;
	const char *strings, *shstrings;
};

static void read_result(struct result *r)
{
	r->file = read_file(out);
	assert_true(r->file.len > sizeof(struct module));
	r->eh = (void *)r->file.p;
	r->sh = (void *)(r->file.p + r->eh->e_shoff);
	r->sym = (void *)(r->file.p + r->sh[S_SYMTAB].sh_offset);
	r->strings = r->file.p + r->sh[S_STRTAB].sh_offset;
	r->shstrings = r->file.p + r->sh[S_SHSTRTAB].sh_offset;
}

static void is_symbol(const struct result *r, int i, const char *name, unsigned int shndx)
{
	assert_string_equal(r->strings + r->sym[i].st_name, name);
	assert_int_equal(r->sym[i].st_shndx, shndx);
}

/* Section @i holds relocations for these symbols, and no others. */
static void is_rela(const struct result *r, int i, const char *name, unsigned int target, int n,
		    const int *wanted)
{
	const Elf64_Shdr *sh = &r->sh[i];
	const Elf64_Rela *rela = (void *)(r->file.p + sh->sh_offset);
	bool klp = !strncmp(name, ".klp.", 5);

	assert_string_equal(r->shstrings + sh->sh_name, name);
	assert_int_equal(sh->sh_type, SHT_RELA);
	assert_int_equal(sh->sh_flags, SHF_INFO_LINK | (klp ? SHF_ALLOC | SHF_RELA_LIVEPATCH : 0));
	assert_int_equal(sh->sh_link, S_SYMTAB);
	assert_int_equal(sh->sh_info, target);
	assert_int_equal(sh->sh_size, n * sizeof(*rela));
	assert_int_equal(sh->sh_offset % 8, 0);
	for (int k = 0; k < n; k++)
		assert_int_equal(ELF64_R_SYM(rela[k].r_info), wanted[k]);
}

static void good(void **state)
{
	struct module m;
	struct result r;
	const struct version *v;

	(void)state;
	fill_module(&m);
	assert_int_equal(link_module(&m), 0);
	assert_string_equal(message, "");
	read_result(&r);
	assert_int_equal(r.eh->e_shnum, S_COUNT + 2);
	is_symbol(&r, Y_LOCAL, "local", S_TEXT);
	is_symbol(&r, Y_EXPORTED, "exported", SHN_UNDEF);
	is_symbol(&r, Y_FUNCTION, ".klp.sym.vmlinux.function,0", SHN_LIVEPATCH);
	is_symbol(&r, Y_DATA, ".klp.sym.vmlinux.data,0", SHN_LIVEPATCH);
	is_symbol(&r, Y_WEAK, "weak", SHN_UNDEF);
	is_rela(&r, S_RELA_TEXT, ".rela.text", S_TEXT, 2, (int[]){Y_EXPORTED, Y_LOCAL});
	/* For no symbol, so that the section isn't empty, which strip would drop. */
	is_rela(&r, S_RELA_DATA, ".rela.data", S_DATA, 1, (int[]){0});
	is_rela(&r, S_RELA_NOTE, ".rela.note", S_NOTE, 1, (int[]){Y_FUNCTION});
	is_rela(&r, S_COUNT, ".klp.rela.vmlinux..text", S_TEXT, 2, (int[]){Y_FUNCTION, Y_DATA});
	is_rela(&r, S_COUNT + 1, ".klp.rela.vmlinux..data", S_DATA, 1, (int[]){Y_DATA});
	assert_int_equal(r.sh[S_VERSIONS].sh_size, 2 * sizeof(*v));
	v = (void *)(r.file.p + r.sh[S_VERSIONS].sh_offset);
	assert_string_equal(v[0].name, "exported");
	assert_string_equal(v[1].name, "module_layout");
	free(r.file.p);
}

/* Once more changes nothing that counts. */
static void again(void **state)
{
	struct module m;
	struct result r;

	(void)state;
	fill_module(&m);
	assert_int_equal(link_module(&m), 0);
	assert_int_equal(rename(out, in), 0);
	assert_int_equal(run_link(true), 0);
	read_result(&r);
	assert_int_equal(r.eh->e_shnum, S_COUNT + 2);
	is_symbol(&r, Y_FUNCTION, ".klp.sym.vmlinux.function,0", SHN_LIVEPATCH);
	is_rela(&r, S_COUNT, ".klp.rela.vmlinux..text", S_TEXT, 2, (int[]){Y_FUNCTION, Y_DATA});
	free(r.file.p);
}

/* Then the list alone decides, and the rest is left to the kernel. */
static void without_symvers(void **state)
{
	static const char only_data[] = "data\n";
	struct module m;
	struct result r;

	(void)state;
	fill_module(&m);
	put_file(in, &m, sizeof(m));
	put_file(symbols, only_data, strlen(only_data));
	assert_int_equal(run_link(false), 0);
	read_result(&r);
	is_symbol(&r, Y_FUNCTION, "function", SHN_UNDEF);
	is_symbol(&r, Y_DATA, ".klp.sym.vmlinux.data,0", SHN_LIVEPATCH);
	free(r.file.p);
}

static void nothing_to_do(void **state)
{
	struct module m;
	struct result r;

	(void)state;
	fill_module(&m);
	m.sym[Y_FUNCTION] = m.sym[Y_DATA] = m.sym[Y_EXPORTED];
	memset(m.modinfo, 0, sizeof(m.modinfo));
	assert_int_equal(link_module(&m), 0);
	read_result(&r);
	assert_int_equal(r.eh->e_shnum, S_COUNT);
	is_rela(&r, S_RELA_TEXT, ".rela.text", S_TEXT, 4,
		(int[]){Y_FUNCTION, Y_EXPORTED, Y_DATA, Y_LOCAL});
	free(r.file.p);
}

/* ---- what is refused ---- */

static void not_listed(void **state)
{
	static const char only_data[] = "data\n# function\n";
	struct module m;

	(void)state;
	fill_module(&m);
	put_file(symbols, only_data, strlen(only_data));
	refused(link_module(&m), "kmod/compat/symbols: add function or don't use it");
	put_file(symbols, "", 0);
	refused(link_module(&m), "add function or");
	assert_non_null(strstr(message, "add data or"));
}

static void not_fit(void **state)
{
	struct module m;

	(void)state;
	fill_module(&m);
	memset(m.modinfo, 0, sizeof(m.modinfo));
	refused(link_module(&m), "MODULE_INFO(livepatch");

	fill_module(&m);
	m.eh.e_machine = EM_AARCH64;
	refused(link_module(&m), "not a module for x86-64");
	fill_module(&m);
	m.eh.e_type = ET_EXEC;
	refused(link_module(&m), "not a module for x86-64");
	fill_module(&m);
	m.eh.e_ident[EI_CLASS] = ELFCLASS32;
	refused(link_module(&m), "not a module for x86-64");

	fill_module(&m);
	m.sh[S_RELA_TEXT].sh_type = SHT_REL;
	refused(link_module(&m), "relocations are of a wrong kind");
	fill_module(&m);
	m.sh[S_SYMTAB].sh_type = SHT_PROGBITS;
	refused(link_module(&m), "no symbol table");
	fill_module(&m);
	memcpy(m.shstrtab + m.sh[S_NOTE].sh_name, ".debug_info", sizeof(".debug_info"));
	refused(link_module(&m), "strip -g");

	put_file(in, SYMVERS, strlen(SYMVERS));
	refused(run_link(true), "not an ELF file");
	put_file(in, "", 0);
	refused(run_link(true), "not an ELF file");
	unlink(in);
	refused(run_link(true), "No such file");
}

static void bad_lists(void **state)
{
	static const char *const bad_symbols[] = {"function data\n", "function(a b)\n"};
	static const char *const bad_symvers[] = {"", "exported\n", "0x1\texported\n", "\t\t\t\n"};
	struct module m;

	(void)state;
	fill_module(&m);
	for (size_t i = 0; i < COUNT(bad_symbols); i++) {
		put_file(symbols, bad_symbols[i], strlen(bad_symbols[i]));
		refused(link_module(&m), "line 1 isn't one name");
	}
	put_file(symbols, "function\0data\n", 14);
	refused(link_module(&m), "not a text");
	put_file(symbols, SYMBOLS, strlen(SYMBOLS));
	for (size_t i = 0; i < COUNT(bad_symvers); i++) {
		put_file(symvers, bad_symvers[i], strlen(bad_symvers[i]));
		refused(link_module(&m), "not a Module.symvers");
	}
}

/* ---- damage ---- */

static void truncated(void **state)
{
	struct module m;

	(void)state;
	fill_module(&m);
	for (size_t len = 0; len < offsetof(struct module, shstrtab) + sizeof(m.shstrtab); len++) {
		put_file(in, &m, len);
		refused(run_link(true), in);
		assert_ptr_equal(strchr(message, '\n'), message + strlen(message) - 1);
	}
}

/* Whatever a byte is, the program ends by itself, and a refusal is told. */
static void damaged(void **state)
{
	static const unsigned char flips[] = {0xff, 0x01, 0x80};
	struct module m;
	int status;

	(void)state;
	for (size_t at = 0; at < sizeof(m); at++) {
		fill_module(&m);
		((unsigned char *)&m)[at] ^= flips[at % COUNT(flips)];
		put_file(out, "old", 3);
		status = link_module(&m);
		if (status)
			refused(status, "klp_link: ");
		else
			assert_string_equal(message, "");
	}
}

#define CASE(function) cmocka_unit_test_setup_teardown(function, begin, test_end)

int main(void)
{
	static const struct CMUnitTest tests[] = {
		CASE(good),          CASE(again),      CASE(without_symvers),
		CASE(nothing_to_do), CASE(not_listed), CASE(not_fit),
		CASE(bad_lists),     CASE(truncated),  CASE(damaged),
	};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, setup, teardown);
}
