// SPDX-License-Identifier: GPL-2.0-only
/*
 * klp_link IN.ko OUT.ko SYMBOLS [Module.symvers]
 *
 * The last step of linking pageferry.ko. It lets the kernel's own relocation code for live patches
 * find what the kernel doesn't export: each undefined symbol NAME that stands in the file SYMBOLS,
 * and isn't exported according to Module.symvers, becomes ".klp.sym.vmlinux.NAME,0" in the special
 * section SHN_LIVEPATCH, and the relocations that use it move from .rela.text to a new section
 * ".klp.rela.vmlinux..text", likewise for every other section that is loaded. The layout is that of
 * Documentation/livepatch/module-elf-format.rst. The ",0" makes the kernel refuse a name that it
 * has more than once.
 *
 * Without Module.symvers every name in SYMBOLS counts as not exported, and undefined symbols that
 * don't stand there are left to the kernel.
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
#include <sys/stat.h>
#include <unistd.h>

/* As the kernel has them; <elf.h> doesn't. */
#define SHN_LIVEPATCH      0xff20
#define SHF_RELA_LIVEPATCH 0x00100000
#define KSYM_NAME_LEN      512

#define MAX_FILE           (1UL << 30)

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
	char **v;
	size_t n;
	size_t cap;
};

struct elf {
	struct buf file;
	Elf64_Shdr *sh; /* a copy that has room for one new section beside each old one */
	size_t shnum;
	size_t shstrndx;
	size_t symndx;
	Elf64_Sym *sym;
	size_t nsym;
	bool *klp; /* for each symbol: is it one for the live patch code? */
	size_t nklp;
	struct buf tail; /* what follows the old contents, from tail_at on */
	size_t tail_at;
};

static const char *subject; /* the file that messages are about */
static char *unfinished;    /* the output, before it has its name */

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *fmt, ...)
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

static void *grow(void *p, size_t *cap, size_t want, size_t size)
{
	size_t n = *cap ? *cap : 64;

	if (want > MAX_FILE)
		die("too large");
	while (n < want)
		n *= 2;
	if (n == *cap)
		return p;
	p = realloc(p, n * size);
	if (!p)
		die("out of memory");
	*cap = n;
	return p;
}

static void append(struct buf *b, const void *data, size_t len)
{
	b->p = grow(b->p, &b->cap, b->len + len, 1);
	if (len)
		memcpy(b->p + b->len, data, len);
	b->len += len;
}

/* Adds a string to a table of strings, returns its offset. */
__attribute__((format(printf, 2, 3))) static uint32_t append_name(struct buf *b, const char *fmt,
								  ...)
{
	char name[KSYM_NAME_LEN + 64];
	size_t at = b->len;
	va_list args;
	int len;

	va_start(args, fmt);
	len = vsnprintf(name, sizeof(name), fmt, args);
	va_end(args);
	if (len < 0 || (size_t)len >= sizeof(name))
		die("a name is too long");
	append(b, name, len + 1);
	return at;
}

/* ---- lists of names ---- */

static int compare(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool has(const struct names *names, const char *name)
{
	return names->n && bsearch(&name, names->v, names->n, sizeof(*names->v), compare);
}

static void add_name(struct names *names, char *name)
{
	names->v = grow(names->v, &names->cap, names->n + 1, sizeof(*names->v));
	names->v[names->n++] = name;
}

/* The contents end with a NUL that isn't counted. */
static struct buf read_file(const char *path)
{
	struct buf b = {0};
	char part[65536];
	size_t len;
	FILE *f;

	subject = path;
	f = fopen(path, "rb");
	if (!f)
		die("%s", strerror(errno));
	while ((len = fread(part, 1, sizeof(part), f)) > 0)
		append(&b, part, len);
	if (ferror(f))
		die("%s", strerror(errno));
	fclose(f);
	append(&b, "", 1);
	b.len--;
	return b;
}

/* A name a line, and comments. */
static void read_symbols(struct names *names, const char *path)
{
	static const char letters[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789";
	struct buf b = read_file(path);
	char *line, *name, *rest = b.p;
	size_t len;
	int n = 0;

	while ((line = strsep(&rest, "\n"))) {
		n++;
		line[strcspn(line, "#")] = '\0';
		name = line + strspn(line, " \t");
		if (!*name)
			continue;
		len = strspn(name, letters);
		if (len >= KSYM_NAME_LEN || name[len + strspn(name + len, " \t")])
			die("line %d isn't the name of a symbol", n);
		name[len] = '\0';
		add_name(names, name);
	}
	if (names->n)
		qsort(names->v, names->n, sizeof(*names->v), compare);
}

/* Each line is: CRC, name, module, kind of export, namespace, with tabs between them. */
static void read_symvers(struct names *names, const char *path)
{
	struct buf b = read_file(path);
	char *line, *name, *rest = b.p;

	while ((line = strsep(&rest, "\n"))) {
		if (!*line)
			continue;
		strsep(&line, "\t");
		name = strsep(&line, "\t");
		if (!name || !*name || !line)
			die("not a Module.symvers");
		add_name(names, name);
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

static const char *symbol_name(const struct elf *e, size_t i)
{
	return string(e, &e->sh[e->sh[e->symndx].sh_link], e->sym[i].st_name);
}

static void parse_header(struct elf *e)
{
	const Elf64_Ehdr *eh = (void *)e->file.p;
	size_t cap = 0;

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
	e->sh = grow(NULL, &cap, 2 * e->shnum, sizeof(*e->sh));
	memcpy(e->sh, e->file.p + eh->e_shoff, e->shnum * sizeof(*e->sh));
}

static void find_symbols(struct elf *e)
{
	size_t i, cap = 0;

	for (i = 1; i < e->shnum; i++) {
		if (e->sh[i].sh_type != SHT_SYMTAB)
			continue;
		if (e->symndx)
			die("damaged: it has two symbol tables");
		e->symndx = i;
	}
	if (!e->symndx)
		die("it has no symbol table");
	if (e->sh[e->symndx].sh_link >= e->shnum)
		die("damaged: the symbol table has no names");
	e->sym = array(e, &e->sh[e->symndx], sizeof(*e->sym), &e->nsym);
	e->klp = grow(NULL, &cap, e->nsym, sizeof(*e->klp));
	memset(e->klp, 0, e->nsym * sizeof(*e->klp));
}

/* The kernel takes such symbols from a module only that says it is a live patch. */
static bool is_livepatch(const struct elf *e)
{
	static const char tag[] = "livepatch=Y";
	const char *p, *end;
	size_t i;

	for (i = 1; i < e->shnum; i++) {
		if (strcmp(section_name(e, &e->sh[i]), ".modinfo") != 0)
			continue;
		p = contents(e, &e->sh[i]);
		for (end = p + e->sh[i].sh_size; p < end; p += strnlen(p, end - p) + 1)
			if ((size_t)(end - p) >= sizeof(tag) && !memcmp(p, tag, sizeof(tag)))
				return true;
	}
	return false;
}

/* Which undefined symbols are to be converted? Returns how many can't be used. */
static int choose_symbols(struct elf *e, const struct names *listed, const struct names *exported)
{
	const char *name;
	int bad = 0;
	size_t i;

	for (i = 1; i < e->nsym; i++) {
		if (e->sym[i].st_shndx != SHN_UNDEF)
			continue;
		name = symbol_name(e, i);
		if (has(exported, name))
			continue;
		if (has(listed, name)) {
			e->klp[i] = true;
			e->nklp++;
		} else if (exported->n && ELF64_ST_BIND(e->sym[i].st_info) == STB_GLOBAL) {
			fprintf(stderr,
				"klp_link: the kernel doesn't export %s: "
				"kmod/compat/symbols: add %s or don't use it\n",
				name, name);
			bad++;
		}
	}
	return bad;
}

/* ---- conversion ---- */

static void align_tail(struct elf *e)
{
	append(&e->tail, "\0\0\0\0\0\0\0", -(e->tail_at + e->tail.len) % 8);
}

/* Puts new contents behind the old ones. */
static void replace(struct elf *e, Elf64_Shdr *sh, const struct buf *b)
{
	align_tail(e);
	sh->sh_offset = e->tail_at + e->tail.len;
	sh->sh_size = b->len;
	append(&e->tail, b->p, b->len);
}

static void rename_symbols(struct elf *e)
{
	Elf64_Shdr *table = &e->sh[e->sh[e->symndx].sh_link];
	struct buf strings = {0};
	const char *name;
	size_t i;

	append(&strings, contents(e, table), table->sh_size);
	for (i = 1; i < e->nsym; i++) {
		if (!e->klp[i])
			continue;
		name = symbol_name(e, i);
		e->sym[i].st_name = append_name(&strings, ".klp.sym.vmlinux.%s,0", name);
		e->sym[i].st_shndx = SHN_LIVEPATCH;
	}
	replace(e, table, &strings);
	free(strings.p);
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
	sh->sh_size = kept * sizeof(*rela);
}

/* Only what is loaded is relocated by the kernel; the rest, debug information, stays as it is. */
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
	struct buf klp = {0}, names = {0};
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
		new->sh_name = append_name(&names, ".klp.rela.vmlinux.%s",
					   section_name(e, &e->sh[e->sh[i].sh_info]));
		new->sh_flags |= SHF_ALLOC | SHF_RELA_LIVEPATCH;
		replace(e, new, &klp);
	}
	replace(e, table, &names);
	free(names.p);
	free(klp.p);
}

/*
 * kmod/Makefile tells modpost that the listed names were exported, with a checksum of 0, since it
 * would warn of each otherwise. That leaves entries of which the kernel and depmod know nothing.
 */
static void drop_versions(struct elf *e, const struct names *listed, const struct names *exported)
{
	struct version *v;
	size_t i, k, n, kept;

	for (i = 1; i < e->shnum; i++) {
		if (strcmp(section_name(e, &e->sh[i]), "__versions") != 0)
			continue;
		v = array(e, &e->sh[i], sizeof(*v), &n);
		for (k = kept = 0; k < n; k++) {
			if (!memchr(v[k].name, '\0', sizeof(v[k].name)))
				die("damaged: a version has no name");
			if (!has(listed, v[k].name) || has(exported, v[k].name))
				v[kept++] = v[k];
		}
		e->sh[i].sh_size = kept * sizeof(*v);
	}
}

static void convert(struct elf *e, const struct names *listed, const struct names *exported)
{
	Elf64_Ehdr *eh = (void *)e->file.p;

	e->tail_at = e->file.len;
	drop_versions(e, listed, exported);
	move_relocations(e);
	rename_symbols(e);
	align_tail(e);
	eh->e_shoff = e->tail_at + e->tail.len;
	eh->e_shnum = e->shnum;
	append(&e->tail, e->sh, e->shnum * sizeof(*e->sh));
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
	struct names listed = {0}, exported = {0};
	struct elf e = {0};

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
	if (choose_symbols(&e, &listed, &exported))
		return 1;
	if (e.nklp && !is_livepatch(&e))
		die("it uses symbols that the kernel doesn't export, but has no MODULE_INFO(livepatch, \"Y\")");
	convert(&e, &listed, &exported);
	write_file(&e, argv[2]);
	return 0;
}
