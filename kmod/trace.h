/* SPDX-License-Identifier: GPL-2.0-only */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM pageferry

#if !defined(PAGEFERRY_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define PAGEFERRY_TRACE_H

#include <linux/mm_types.h>
#include <linux/pageferry.h>
#include <linux/tracepoint.h>

TRACE_EVENT(pageferry_move,
	TP_PROTO(const struct pageferry_move *move, int error),
	TP_ARGS(move, error),
	TP_STRUCT__entry(
		__field(u64, dst)
		__field(u64, src)
		__field(u64, len)
		__field(u64, moved)
		__field(u64, tables)
		__field(u64, why)
		__field(u32, mode)
		__field(int, error)
	),
	TP_fast_assign(
		__entry->dst = move->dst;
		__entry->src = move->src;
		__entry->len = move->len;
		__entry->moved = move->moved;
		__entry->tables = move->tables;
		__entry->why = move->why;
		__entry->mode = move->mode;
		__entry->error = error;
	),
	TP_printk("dst=%#llx src=%#llx len=%llu moved=%llu tables=%llu why=%llu mode=%#x error=%d",
		  __entry->dst, __entry->src, __entry->len, __entry->moved, __entry->tables,
		  __entry->why, __entry->mode, __entry->error)
);

TRACE_EVENT(pageferry_refuse,
	TP_PROTO(struct mm_struct *mm, unsigned long addr, int error, const char *why),
	TP_ARGS(mm, addr, error, why),
	TP_STRUCT__entry(
		__field(struct mm_struct *, mm)
		__field(unsigned long, addr)
		__field(int, error)
		__string(why, why)
	),
	TP_fast_assign(
		__entry->mm = mm;
		__entry->addr = addr;
		__entry->error = error;
		__assign_str(why);
	),
	TP_printk("mm=%p addr=%#lx error=%d why=%s", __entry->mm, __entry->addr, __entry->error,
		  __get_str(why))
);

TRACE_EVENT(pageferry_flush,
	TP_PROTO(struct mm_struct *mm, unsigned long addr, unsigned long len, unsigned int entries),
	TP_ARGS(mm, addr, len, entries),
	TP_STRUCT__entry(
		__field(struct mm_struct *, mm)
		__field(unsigned long, addr)
		__field(unsigned long, len)
		__field(unsigned int, entries)
	),
	TP_fast_assign(
		__entry->mm = mm;
		__entry->addr = addr;
		__entry->len = len;
		__entry->entries = entries;
	),
	TP_printk("mm=%p addr=%#lx len=%lu entries=%u", __entry->mm, __entry->addr, __entry->len,
		  __entry->entries)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
