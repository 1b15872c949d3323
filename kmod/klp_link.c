// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_link IN.ko OUT.ko SYMBOLS [Module.symvers]
 *
 * The last step of linking pageferry.ko. It lets the kernel's own relocation code for live patches
 * find what the kernel doesn't export: each undefined symbol NAME that stands in the file SYMBOLS,
 * and isn't exported according to Module.symvers, becomes ".klp.sym.vmlinux.NAME,0" in the special
 * section SHN_LIVEPATCH, and the relocations that use it move from .rela.text to
 * ".klp.rela.vmlinux..text", likewise for every other section that is loaded. The layout is that of
 * Documentation/livepatch/module-elf-format.rst. The ",0" makes the kernel refuse a name that it
 * has more than once.
 *
 * Without Module.symvers every name in SYMBOLS counts as not exported, and undefined symbols that
 * don't stand there are left to the kernel.
 *
 * strip(1) renumbers symbols and sections, but not what refers to them in these relocations. So
 * nothing may be left for it to take away: no debug information, no empty table of relocations.
 *
 * The input is taken for hostile: nothing in it is used before it was checked.
 */
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* As the kernel has them; <elf.h> doesn't. */
#define SHN_LIVEPATCH 0xff20
#define SHF_RELA_LIVEPATCH 0x00100000
#define KSYM_NAME_LEN 512

/* An entry of the section __versions, struct modversion_info in the kernel. */
struct version {
	uint64_t crc;
	char name[56];
};

struct buf {
	char *p;
	size_t len;
	size_t cap;
};

struct names {
	struct buf text;
	char **v;
	size_t n;
};

struct elf {
	struct buf file;
	Elf64_Shdr *sh; /* a copy with room for a new section beside each old one */
	size_t shnum;
	size_t shstrndx;
	size_t symndx;
	Elf64_Sym *sym;
	size_t nsym;
	bool *klp; /* for each symbol: is it one for the live patch code? */
	size_t nklp;
	struct buf tail; /* what follows the old contents */
};

static struct names listed, exported;
static const char *subject; /* the file that messages are about */
static char *unfinished;    /* the output, before it has its name */

__attribute__((noreturn, format(printf, 1, 2)))
static void die(const char *fmt, ...)
{
	va_list args;

	fprintf(stderr, "klp_link: %s: ", subject);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputc('\n', stderr);
	if (unfinished)
		unlink(unfinished);
	exit(1);
}

/* ---- memory ---- */

static void *zalloc(size_t n, size_t size)
{
	void *p = calloc(n + 1, size);

	if (!p)
		die("out of memory");
	return p;
}

static void append(struct buf *b, const void *data, size_t len)
{
	char *p = b->p;

	if (b->len + len > 1UL << 30)
		die("too large");
	if (!p || b->len + len > b->cap) {
		b->cap = 2 * (b->len + len) + 64;
		p = realloc(p, b->cap);
		if (!p)
			die("out of memory");
		b->p = p;
	}
	memcpy(b->p + b->len, data, len);
	b->len += len;
}

/* Adds a string to a table of strings, returns its offset. */
static uint32_t append_name(struct buf *b, const char *prefix, const char *name, const char *suffix)
{
	size_t at = b->len;

	append(b, prefix, strlen(prefix));
	append(b, name, strlen(name));
	append(b, suffix, strlen(suffix) + 1);
	return at;
}

/* ---- lists of names ---- */

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool has(const struct names *names, const char *name)
{
	return names->v && bsearch(&name, names->v, names->n, sizeof(*names->v), compare);
}

static struct buf read_file(const char *path)
{
	struct buf b = {0};
	char part[65536];
	size_t len;
	FILE *f = fopen(path, "rb");

	subject = path;
	if (!f)
		die("%s", strerror(errno));
	while ((len = fread(part, 1, sizeof(part), f)) > 0)
		append(&b, part, len);
	if (ferror(f))
		die("%s", strerror(errno));
	fclose(f);
	return b;
}

/* Also makes room for a name a line. */
static char *read_text(struct names *names, const char *path)
{
	struct buf *text = &names->text;
	size_t i, lines = 1;

	*text = read_file(path);
	append(text, "", 1);
	if (strlen(text->p) != text->len - 1)
		die("not a text");
	for (i = 0; i < text->len; i++)
		lines += text->p[i] == '\n';
	names->v = zalloc(lines, sizeof(*names->v));
	return text->p;
}

/* A name a line, and comments. */
static void read_symbols(struct names *names, const char *path)
{
	char *line, *name, *rest = read_text(names, path);
	size_t len;
	int n = 0;

	while ((line = strsep(&rest, "\n"))) {
		n++;
		line[strcspn(line, "#")] = '\0';
		name = line + strspn(line, " \t\r");
		if (!*name)
			continue;
		len = strcspn(name, " \t\r");
		if (len >= KSYM_NAME_LEN || name[len + strspn(name + len, " \t\r")])
			die("line %d isn't one name", n);
		name[len] = '\0';
		names->v[names->n++] = name;
	}
	qsort(names->v, names->n, sizeof(*names->v), compare);
}

/* Each line is: CRC, name, module, kind of export, namespace, with tabs between them. */
static void read_symvers(struct names *names, const char *path)
{
	char *line, *name, *rest = read_text(names, path);

	while ((line = strsep(&rest, "\n"))) {
		if (!*line)
			continue;
		strsep(&line, "\t");
		name = strsep(&line, "\t");
		if (!name || !*name || !line)
			die("not a Module.symvers");
		names->v[names->n++] = name;
	}
	if (!names->n)
		die("not a Module.symvers");
	qsort(names->v, names->n, sizeof(*names->v), compare);
}

/* ---- the ELF file ---- */

static void *contents(const struct elf *e, const Elf64_Shdr *sh)
{
	if (sh->sh_type == SHT_NOBITS || sh->sh_offset > e->file.len ||
	    sh->sh_size > e->file.len - sh->sh_offset)
		die("damaged: a section lies outside of the file");
	return e->file.p + sh->sh_offset;
}

/* The contents of a section that is an array. */
static void *array(const struct elf *e, const Elf64_Shdr *sh, size_t size, size_t *n)
{
	if (sh->sh_offset % 8 || sh->sh_size % size)
		die("damaged: a section isn't the table that it should be");
	*n = sh->sh_size / size;
	return contents(e, sh);
}

static const char *string(const struct elf *e, const Elf64_Shdr *table, uint32_t at)
{
	const char *s = contents(e, table);

	if (table->sh_type != SHT_STRTAB || !table->sh_size || s[table->sh_size - 1])
		die("damaged: a table of strings isn't one");
	if (at >= table->sh_size)
		die("damaged: a name lies outside of its table");
	return s + at;
}

static const char *section_name(const struct elf *e, const Elf64_Shdr *sh)
{
	return string(e, &e->sh[e->shstrndx], sh->sh_name);
}

static Elf64_Shdr *find_section(const struct elf *e, const char *name)
{
	size_t i;

	for (i = 1; i < e->shnum; i++)
		if (!strcmp(section_name(e, &e->sh[i]), name))
			return &e->sh[i];
	return NULL;
}

static const char *symbol_name(const struct elf *e, size_t i)
{
	return string(e, &e->sh[e->sh[e->symndx].sh_link], e->sym[i].st_name);
}

static void parse_header(struct elf *e)
{
	const Elf64_Ehdr *eh = (void *)e->file.p;

	if (e->file.len < sizeof(*eh) || memcmp(eh->e_ident, ELFMAG, SELFMAG) != 0)
		die("not an ELF file");
	if (eh->e_ident[EI_CLASS] != ELFCLASS64 || eh->e_ident[EI_DATA] != ELFDATA2LSB ||
	    eh->e_machine != EM_X86_64 || eh->e_type != ET_REL)
		die("not a module for x86-64");
	if (eh->e_shentsize != sizeof(Elf64_Shdr) || eh->e_shoff % 8 || eh->e_shoff > e->file.len ||
	    (size_t)eh->e_shnum * sizeof(Elf64_Shdr) > e->file.len - eh->e_shoff)
		die("damaged: the section headers lie outside of the file");
	if (!eh->e_shnum || eh->e_shnum >= SHN_LORESERVE / 2 || eh->e_shstrndx >= eh->e_shnum)
		die("damaged: the number of sections is wrong");
	e->shnum = eh->e_shnum;
	e->shstrndx = eh->e_shstrndx;
	e->sh = zalloc(2 * e->shnum, sizeof(*e->sh));
	memcpy(e->sh, e->file.p + eh->e_shoff, e->shnum * sizeof(*e->sh));
}

static void find_symbols(struct elf *e)
{
	size_t i;

	for (i = 1; i < e->shnum && e->sh[i].sh_type != SHT_SYMTAB; i++)
		;
	if (i >= e->shnum)
		die("it has no symbol table");
	if (e->sh[i].sh_link >= e->shnum || e->sh[i].sh_link == e->shstrndx)
		die("its symbol table has no table of names of its own");
	e->symndx = i;
	e->sym = array(e, &e->sh[i], sizeof(*e->sym), &e->nsym);
	e->klp = zalloc(e->nsym, sizeof(*e->klp));
}

/* Only of a module that says so the kernel takes such symbols. */
static bool is_livepatch(const struct elf *e)
{
	const Elf64_Shdr *sh = find_section(e, ".modinfo");

	return sh && memmem(contents(e, sh), sh->sh_size, "livepatch=Y", sizeof("livepatch=Y"));
}

/* Which undefined symbols are to be converted? Returns how many can't be used. */
static int choose_symbols(struct elf *e)
{
	const char *name;
	int bad = 0;
	size_t i;

	for (i = 1; i < e->nsym && bad < 100; i++) {
		name = symbol_name(e, i);
		if (e->sym[i].st_shndx != SHN_UNDEF || has(&exported, name))
			continue;
		if (has(&listed, name)) {
			e->klp[i] = true;
			e->nklp++;
		} else if (exported.n && ELF64_ST_BIND(e->sym[i].st_info) == STB_GLOBAL) {
			fprintf(stderr, "klp_link: not exported by the kernel: "
				"kmod/compat/symbols: add %s or don't use it\n", name);
			bad++;
		}
	}
	return bad;
}

/* ---- conversion ---- */

/* Puts contents behind the old file and returns where. */
static uint64_t put(struct elf *e, const void *data, size_t len)
{
	append(&e->tail, "\0\0\0\0\0\0\0", -(e->file.len + e->tail.len) % 8);
	append(&e->tail, data, len);
	return e->file.len + e->tail.len - len;
}

static void replace(struct elf *e, Elf64_Shdr *sh, const struct buf *b)
{
	sh->sh_offset = put(e, b->p, b->len);
	sh->sh_size = b->len;
}

static void rename_symbols(struct elf *e)
{
	Elf64_Shdr *table = &e->sh[e->sh[e->symndx].sh_link];
	static struct buf strings;
	size_t i;

	append(&strings, contents(e, table), table->sh_size);
	for (i = 1; i < e->nsym; i++) {
		if (!e->klp[i])
			continue;
		e->sym[i].st_name = append_name(&strings, ".klp.sym.vmlinux.", symbol_name(e, i), ",0");
		e->sym[i].st_shndx = SHN_LIVEPATCH;
	}
	replace(e, table, &strings);
}

/* Takes those relocations out of a section that are for live patch symbols. */
static void split_relocations(const struct elf *e, Elf64_Shdr *sh, struct buf *klp)
{
	size_t i, n, sym, kept = 0;
	Elf64_Rela *rela = array(e, sh, sizeof(*rela), &n);

	for (i = 0; i < n; i++) {
		sym = ELF64_R_SYM(rela[i].r_info);
		if (sym >= e->nsym)
			die("damaged: a relocation is for no symbol");
		if (e->klp[sym])
			append(klp, &rela[i], sizeof(rela[i]));
		else
			rela[kept++] = rela[i];
	}
	if (n && !kept)
		rela[kept++] = (Elf64_Rela){.r_info = ELF64_R_INFO(0, R_X86_64_NONE)};
	sh->sh_size = kept * sizeof(*rela);
}

/* The kernel relocates only what is loaded. */
static bool is_relocated(const struct elf *e, const Elf64_Shdr *sh)
{
	if (sh->sh_type != SHT_RELA && sh->sh_type != SHT_REL)
		return false;
	if (sh->sh_info >= e->shnum)
		die("damaged: relocations are for no section");
	if (!(e->sh[sh->sh_info].sh_flags & SHF_ALLOC) || sh->sh_flags & SHF_RELA_LIVEPATCH)
		return false;
	if (sh->sh_type != SHT_RELA || sh->sh_link != e->symndx)
		die("damaged: relocations are of a wrong kind");
	return true;
}

static void move_relocations(struct elf *e)
{
	size_t i, old = e->shnum, total = 0;
	static struct buf klp, names;
	Elf64_Shdr *new, *table = &e->sh[e->shstrndx];

	append(&names, contents(e, table), table->sh_size);
	for (i = 1; i < old; i++) {
		if (!is_relocated(e, &e->sh[i]))
			continue;
		/* Sections that overlap could make this quadratic. */
		total += e->sh[i].sh_size;
		if (total > e->file.len)
			die("damaged: sections overlap");
		klp.len = 0;
		split_relocations(e, &e->sh[i], &klp);
		if (!klp.len)
			continue;
		new = &e->sh[e->shnum++];
		*new = e->sh[i];
		new->sh_name = append_name(&names, ".klp.rela.vmlinux.",
					   section_name(e, &e->sh[e->sh[i].sh_info]), "");
		new->sh_flags |= SHF_ALLOC | SHF_RELA_LIVEPATCH;
		replace(e, new, &klp);
	}
	replace(e, table, &names);
}

/*
 * kmod/Makefile tells modpost that the listed names were exported, with a checksum of 0, since it
 * would warn of each otherwise. That leaves entries of which the kernel and depmod know nothing.
 */
static void drop_versions(struct elf *e)
{
	Elf64_Shdr *sh = find_section(e, "__versions");
	size_t i, n, kept = 0;
	struct version *v;

	if (!sh)
		return;
	v = array(e, sh, sizeof(*v), &n);
	for (i = 0; i < n; i++) {
		if (!memchr(v[i].name, '\0', sizeof(v[i].name)))
			die("damaged: a version has no name");
		if (!has(&listed, v[i].name) || has(&exported, v[i].name))
			v[kept++] = v[i];
	}
	sh->sh_size = kept * sizeof(*v);
}

static void convert(struct elf *e)
{
	Elf64_Ehdr *eh = (void *)e->file.p;

	drop_versions(e);
	move_relocations(e);
	rename_symbols(e);
	eh->e_shoff = put(e, e->sh, e->shnum * sizeof(*e->sh));
	eh->e_shnum = e->shnum;
}

/* Written aside, so that no half of a module is ever found under the name. */
static void write_file(const struct elf *e, const char *path)
{
	char *aside;
	FILE *f;

	subject = path;
	if (asprintf(&aside, "%s.tmp%d", path, (int)getpid()) < 0)
		die("out of memory");
	f = fopen(aside, "wbx");
	if (!f)
		die("%s", strerror(errno));
	unfinished = aside;
	fwrite(e->file.p, 1, e->file.len, f);
	fwrite(e->tail.p, 1, e->tail.len, f);
	if (fflush(f) || ferror(f) || fclose(f) || rename(aside, path))
		die("can't be written: %s", strerror(errno));
	unfinished = NULL;
	free(aside);
}

int main(int argc, char **argv)
{
	static struct elf e;

	if (argc != 4 && argc != 5) {
		fprintf(stderr, "usage: klp_link IN.ko OUT.ko SYMBOLS [Module.symvers]\n");
		return 2;
	}
	read_symbols(&listed, argv[3]);
	if (argc == 5)
		read_symvers(&exported, argv[4]);
	e.file = read_file(argv[1]);
	parse_header(&e);
	find_symbols(&e);
	if (find_section(&e, ".debug_info"))
		die("it has debug information: strip -g it first");
	if (choose_symbols(&e) > 0)
		return 1;
	if (e.nklp && !is_livepatch(&e))
		die("it needs a MODULE_INFO(livepatch, \"Y\")");
	convert(&e);
	write_file(&e, argv[2]);
	return 0;
}
