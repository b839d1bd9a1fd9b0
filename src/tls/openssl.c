/* Finding OpenSSL in the running interpreter, and an SSL in a Python object.  All
 * functions run attached; the last user of an UvtOpenSSL may drop it anywhere.
 *
 * The _ssl module is a shared library that is loaded already; opening it again
 * gives its symbols and those of the libraries that it is linked to.  Its objects
 * are not documented, so each one is checked before it is used: the words that
 * precede and follow the pointer have to be what they always are, OpenSSL has to
 * know the object as the SSL's owner, and both have to agree on the context.  A
 * process may have several copies of OpenSSL: the SSL and its BIO have to come from
 * the one whose functions were found.
 */
#include "openssl.h"
#include <dlfcn.h>
#include <stdatomic.h>
#include <string.h>

/* ---- the library ---- */

/* A path's library if it is loaded, else NULL. */
static void *
open_loaded(PyObject *module)
{
    PyObject *file = PyObject_GetAttrString(module, "__file__"), *path = NULL;
    void *library = NULL;
    if (file != NULL && PyUnicode_FSConverter(file, &path)) {
        library = dlopen(PyBytes_AS_STRING(path), RTLD_LAZY | RTLD_NOLOAD);
        Py_DECREF(path);
    }
    Py_XDECREF(file);
    PyErr_Clear();          /* built into the interpreter: there is no file */
    return library;
}

static bool
load_functions(UvtOpenSSL *self)
{
    bool complete = true;
    void *found;
#define LOAD(name, result, arguments) \
    found = dlsym(self->library, #name); \
    complete = complete && found != NULL; \
    memcpy(&self->name, &found, sizeof(found));
    UVT_OPENSSL_FUNCTIONS(LOAD)
#undef LOAD
    return complete;
}

/* Whether these functions belong to what _ssl uses, and that is OpenSSL. */
static bool
is_openssl(const UvtOpenSSL *self, PyObject *module)
{
    PyObject *number = PyObject_GetAttrString(module, "OPENSSL_VERSION_NUMBER");
    unsigned long version = 0;
    if (number != NULL) {
        version = PyLong_AsUnsignedLong(number);
        Py_DECREF(number);
    }
    PyErr_Clear();
    return version >= 0x10101000UL && version == self->OpenSSL_version_num()
        && strncmp(self->OpenSSL_version(0), "OpenSSL ", 8) == 0;
}

UvtOpenSSL *
uvt_openssl_find(PyObject *module)
{
    UvtOpenSSL *self = PyMem_RawCalloc(1, sizeof(UvtOpenSSL));
    if (self == NULL) {
        return NULL;
    }
    atomic_init(&self->users, 1);
    self->library = open_loaded(module);
    if (self->library == NULL || !load_functions(self)
        || !is_openssl(self, module)) {
        uvt_openssl_drop(self);
        return NULL;
    }
    self->keeps_mode = self->OpenSSL_version_num() >= 0x30200000UL;
    return self;
}

UvtOpenSSL *
uvt_openssl_share(UvtOpenSSL *self)
{
    atomic_fetch_add(&self->users, 1);
    return self;
}

void
uvt_openssl_drop(UvtOpenSSL *self)
{
    if (self == NULL || atomic_fetch_sub(&self->users, 1) > 1) {
        return;
    }
    if (self->method != NULL) {
        self->BIO_meth_free(self->method);
    }
    if (self->library != NULL) {
        (void)dlclose(self->library);
    }
    PyMem_RawFree(self);
}

/* ---- one connection ---- */

/* How an object of _ssl begins, in CPython 3.10 to 3.15. */
typedef struct Layout {
    PyObject_HEAD
    void *socket;               /* NULL for one that was made by wrap_bio() */
    SSL *ssl;
    PyObject *context;
} Layout;

typedef struct ContextLayout {
    PyObject_HEAD
    SSL_CTX *ctx;
} ContextLayout;

/* Whether an address lies in the library that has this function. */
static bool
is_in_library(const void *address, const void *function)
{
    Dl_info mine, other;
    return address != NULL && dladdr(address, &other) && dladdr(function, &mine)
        && other.dli_fbase == mine.dli_fbase;
}

/* A table of libssl's and a text of libcrypto's that the objects refer to tell which
 * copies have made them.  Both are the same ones for nearly all connections: only
 * new addresses are looked up. */
static bool
is_of_our_copy(UvtOpenSSL *self, SSL *ssl)
{
    const void *table = self->SSL_get_ssl_method(ssl);
    const BIO *bio = self->SSL_get_rbio(ssl);
    const void *name = bio != NULL ? self->BIO_method_name(bio) : NULL;
    const void *function;
    if (table != atomic_load_explicit(&self->own_table, memory_order_relaxed)) {
        memcpy(&function, &self->SSL_read_ex, sizeof(function));
        if (!is_in_library(table, function)) {
            return false;
        }
        atomic_store_explicit(&self->own_table, table, memory_order_relaxed);
    }
    if (name != atomic_load_explicit(&self->own_name, memory_order_relaxed)) {
        memcpy(&function, &self->BIO_new, sizeof(function));
        if (!is_in_library(name, function)) {
            return false;
        }
        atomic_store_explicit(&self->own_name, name, memory_order_relaxed);
    }
    return name != NULL;
}

SSL *
uvt_openssl_ssl_of(UvtOpenSSL *self, PyObject *sslobj, PyObject *context)
{
    const Layout *object = (const Layout *)sslobj;
    if (Py_TYPE(sslobj)->tp_basicsize < (Py_ssize_t)sizeof(Layout)
        || Py_TYPE(context)->tp_basicsize < (Py_ssize_t)sizeof(ContextLayout)
        || object->socket != NULL || object->ssl == NULL
        || object->context != context
        || self->SSL_get_ex_data(object->ssl, 0) != (void *)sslobj
        || self->SSL_get_SSL_CTX(object->ssl)
           != ((const ContextLayout *)context)->ctx
        || !is_of_our_copy(self, object->ssl)) {
        return NULL;
    }
    return object->ssl;
}
