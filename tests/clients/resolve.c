/*
 * Asks the C library for the addresses of a name, or the name of an address, as programs do. Built with musl,
 * whose resolver is not glibc's: it asks for both families at once, and asks all servers at the same time.
 *
 *   resolve any|4|6 NAME     an address a line
 *   resolve name ADDRESS     its name
 *
 * What is not found is no line, and the exit status 2.
 */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>

static int failed(int error)
{
	fprintf(stderr, "%s\n", gai_strerror(error));
	return 2;
}

int main(int argc, char **argv)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found, *one;
	char text[NI_MAXHOST];
	int error;

	if (argc != 3) {
		fprintf(stderr, "usage: resolve any|4|6 NAME, resolve name ADDRESS\n");
		return 1;
	}
	if (!strcmp(argv[1], "4"))
		hints.ai_family = AF_INET;
	else if (!strcmp(argv[1], "6"))
		hints.ai_family = AF_INET6;
	else if (!strcmp(argv[1], "name"))
		hints.ai_flags = AI_NUMERICHOST;
	error = getaddrinfo(argv[2], NULL, &hints, &found);
	if (error)
		return failed(error);
	for (one = found; one; one = one->ai_next) {
		int as = hints.ai_flags & AI_NUMERICHOST ? NI_NAMEREQD : NI_NUMERICHOST;

		error = getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, NULL, 0, as);
		if (error)
			return failed(error);
		puts(text);
	}
	freeaddrinfo(found);
	return 0;
}
