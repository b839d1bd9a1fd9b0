/* The state of one uvtulip._transports module and what its files share.
 *
 * One TulipState for each interpreter that has imported the module; objects of
 * its types reach it by a borrowed pointer, which their type keeps good.
 */
#ifndef TULIP_TRANSPORTSMODULE_H
#define TULIP_TRANSPORTSMODULE_H

#include "../_uv/compat.h"
#include "../_uv/locked.h"
#include "../_uv/uv_capi.h"
#include "../tls/engine.h"

typedef struct TulipState {
    PyObject *module;                   /* borrowed: owns this state */
    const UvtCAPI *uv;                  /* the capsule's; kept by uv_module */
    PyObject *uv_module;                /* uvtulip._uv */
    PyTypeObject *loop_type;            /* EventLoop */
    PyTypeObject *callback_type;        /* Handle, an asyncio.Handle */
    PyTypeObject *timer_type;           /* TimerHandle, an asyncio.TimerHandle */
    PyTypeObject *watcher_type;         /* of add_reader and add_writer */
    PyTypeObject *stream_type;          /* StreamTransport, an asyncio.Transport */
    PyTypeObject *read_pipe_type;       /* ReadPipeTransport */
    PyTypeObject *write_pipe_type;      /* WritePipeTransport */
    PyTypeObject *server_type;          /* Server: the C half of it */
    PyTypeObject *tls_type;             /* SSLTransport, an asyncio.Transport */
    PyTypeObject *tls_link_type;        /* SSLLink, an asyncio.Protocol */
    PyTypeObject *tls_factory_type;     /* SSLFactory */
    UvtTlsState tls;
    PyTypeObject *datagram_type;        /* an asyncio.DatagramTransport */
    PyObject *future_type;              /* asyncio.Future */
    PyObject *invalid_state;            /* asyncio.InvalidStateError */
    PyObject *tasks_names;              /* asyncio.tasks.__dict__ */
    PyObject *buffered_protocol_type;   /* asyncio.BufferedProtocol */
    PyObject *socket_type;              /* socket.socket, and the plain numbers */
    PyObject *socket_family;            /* that its base has as `family`, ... */
    PyObject *socket_kind;              /* ... `type` ... */
    PyObject *socket_proto;             /* ... and `proto` */
    PyObject *socket_io_refs;           /* the slots `_io_refs` ... */
    PyObject *socket_closed;            /* ... and `_closed` of it, or NULL */
    PyObject *address_family;           /* socket.AddressFamily, ... */
    PyObject *address_kind;             /* ... SocketKind, */
    PyObject *af_inet, *af_inet6;       /* ... and their usual members */
    PyObject *sock_stream, *sock_dgram;
    PyObject *gaierror;                 /* socket.gaierror */
    PyObject *extract_stack;            /* asyncio.format_helpers.extract_stack */
    PyObject *format_source;    /* asyncio.format_helpers._format_callback_source */
    PyObject *logger;                   /* asyncio.log.logger */
    PyObject *zero, *one;
    PyObject *empty_tuple;
    PyObject *empty_str;
    PyObject *kwnames_loop;             /* ("loop",) */
    PyObject *str_accept;
    PyObject *str_call_exception_handler;
    PyObject *str_connection_made;
    PyObject *str_connection_lost;
    PyObject *str_context;
    PyObject *str_data_received;
    PyObject *str_datagram_received;
    PyObject *str_error_received;
    PyObject *str_eof_received;
    PyObject *str_fileno;
    PyObject *str_get_buffer;
    PyObject *str__drain_helper;
    PyObject *str_buffer_updated;
    PyObject *str_loop;
    PyObject *str_name;
    PyObject *str_pause_writing;
    PyObject *str_recv;
    PyObject *str_recv_into;
    PyObject *str_recvfrom;
    PyObject *str_recvfrom_into;
    PyObject *str_resume_writing;
    PyObject *str_send;
    PyObject *str_sendto;
    PyObject *str_set_exception;
    PyObject *str_set_result;
    PyObject *str_time;
    PyObject *str_Task;
} TulipState;

extern struct PyModuleDef tulip_module;

/* The state behind a type of this module or a subclass of one. */
TulipState *tulip_state_of_type(PyTypeObject *type);

UVT_CHECKED int tulip_callback_setup(PyObject *module, TulipState *st);
UVT_CHECKED int tulip_loop_setup(PyObject *module, TulipState *st);
UVT_CHECKED int tulip_watcher_setup(PyObject *module, TulipState *st);
UVT_CHECKED int tulip_stream_setup(PyObject *module, TulipState *st);
UVT_CHECKED int tulip_pipe_setup(PyObject *module, TulipState *st);
UVT_CHECKED int tulip_server_setup(PyObject *module, TulipState *st);
UVT_CHECKED int tulip_tls_setup(PyObject *module, TulipState *st);
UVT_CHECKED int tulip_sendfile_setup(TulipState *st);
UVT_CHECKED int tulip_datagram_setup(PyObject *module, TulipState *st);

/* Makes a type from its spec with the given bases (a type, a tuple or NULL),
 * adds it to the module and stores a strong reference in *slot. */
UVT_CHECKED int tulip_add_type(PyObject *module, PyTypeObject **slot,
                               PyType_Spec *spec, PyObject *bases);

/* ---- arguments.c ---- */

/* The general case of tulip_only_arg. */
UVT_CHECKED UVT_BORROWED PyObject *
tulip_only_arg_slow(const char *method, const char *name, PyObject *const *args,
                    Py_ssize_t nargs, PyObject *kwnames);

/* The argument of a method that takes one, by position or by its name; NULL
 * with TypeError. */
UVT_CHECKED UVT_BORROWED static inline PyObject *
tulip_only_arg(const char *method, const char *name, PyObject *const *args,
               Py_ssize_t nargs, PyObject *kwnames)
{
    return nargs == 1 && kwnames == NULL
        ? args[0] : tulip_only_arg_slow(method, name, args, nargs, kwnames);
}

/* 0, or -1 with ValueError as asyncio raises it.  The object (if it is none of
 * int) is stored in *fileobj, borrowed.  A negative number, as closed sockets
 * give, passes if `closed` is set. */
UVT_CHECKED int tulip_parse_fd(PyObject *arg, bool closed, int *fd,
                               PyObject **fileobj);

/* ---- transportsmodule.c ---- */

/* _tls_backend(portable=None): chooses the backend of new TLS connections; its name.
 * tls.c */
UVT_NEW PyObject *tulip_tls_backend(PyObject *module, PyObject *choice);

/* Gives a class its own descriptor for each C method that it inherits, unless a
 * class between has another attribute of that name; None. */
UVT_NEW PyObject *tulip_own_methods(PyObject *cls, PyObject *unused);

#endif
