/* What a StreamTransport calls when its protocol is a SSLLink (TULIP_LAYERED):
 * the way between the two without Python.  `link` is that protocol; the caller owns
 * a reference to it and to the stream.
 */
#ifndef TULIP_TLS_LAYER_H
#define TULIP_TLS_LAYER_H

#include "stream.h"

/* The stream, or any other transport, is connected. */
void tulip_layer_made(PyObject *link, PyObject *transport);
/* And lost; exc may be NULL. */
void tulip_layer_lost(PyObject *link, PyObject *exc);
/* Ciphertext, which is the stream's again when this returns. */
void tulip_layer_read(PyObject *link, const char *base, size_t len);
/* The stream is about to send: what waits for it has to be encrypted. */
void tulip_layer_flush(PyObject *link);
/* The stream has sent what had to wait. */
void tulip_layer_sent(PyObject *link);
/* The handshake is not done yet. */
bool tulip_layer_in_handshake(PyObject *link);
/* The transport that users know; NULL without an exception when it is lost. */
UVT_BORROWED PyObject *tulip_layer_transport(PyObject *link);

#endif
