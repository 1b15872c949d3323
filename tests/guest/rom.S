/* SPDX-License-Identifier: MIT */
/*
 * All the software of the VM of vm.c, in place of its firmware: without any it starts at once, where
 * SeaBIOS would take long under two emulators. See vm.c for what it does.
 */
#include "rom.h"

#define TOP	0xffff0000 /* the ROM's own address */
#define PORT	0x402
#define BY_ADDR 0x9e3779b1
#define BY_TURN 0x85ebca6b

	.section .rodata
	.globl rom
	.balign 16
	.code16
rom:
	cli
	lgdtl	%cs:(table - rom)
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$8, $(TOP + flat - rom)

	.code32
flat:
	movl	$16, %eax
	movw	%ax, %ds
	movw	$PORT, %dx
	movb	$ROM_FIRST_TICK, %bl
	xorl	%ebp, %ebp		/* the turn */
	xorl	%esi, %esi		/* the turn times BY_TURN */
turn:
	movl	$ROM_START, %edi
word:
	imull	$BY_ADDR, %edi, %eax
	testl	%ebp, %ebp
	jz	1f
	leal	-BY_TURN(%eax, %esi), %ecx
	cmpl	%ecx, (%edi)
	jne	wrong
1:	addl	%esi, %eax
	movl	%eax, (%edi)
	addl	$ROM_STEP, %edi
	cmpl	$(ROM_START + ROM_LEN), %edi
	jb	word

	movb	%bl, %al
	outb	%al, %dx
	incb	%bl
	cmpb	$(ROM_FIRST_TICK + ROM_TICKS), %bl
	jb	2f
	movb	$ROM_FIRST_TICK, %bl
2:	incl	%ebp
	addl	$BY_TURN, %esi
	jmp	turn

wrong:
	movb	$ROM_WRONG, %al
	outb	%al, %dx
3:	hlt
	jmp	3b

	.balign 8
segments:
	.quad	0
	.quad	0x00cf9b000000ffff	/* 8: code, all of the address space */
	.quad	0x00cf93000000ffff	/* 16: data */
table:
	.word	table - segments - 1
	.long	TOP + segments - rom

	.org	rom + 0xfff0
	.code16
	jmp	rom			/* the first instruction */
	.org	rom + ROM_BYTES

	.section .note.GNU-stack, "", @progbits
