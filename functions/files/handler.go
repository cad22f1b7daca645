package main

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/function"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/token"
)

// store keeps the bytes of files; see content.Store.
type store interface {
	Get(ctx context.Context, id string) (content.File, error)
	Reader(ctx context.Context, f content.File) io.ReadSeekCloser
	Bury(ctx context.Context, id string) error
	Buried(ctx context.Context, id string) (bool, error)
	Delete(ctx context.Context, id string) error
}

// contents is a content.Store as a store.
type contents struct{ *content.Store }

func (c contents) Reader(ctx context.Context, f content.File) io.ReadSeekCloser {
	return c.Store.Reader(ctx, f)
}

// catalogue has the entries of files; see catalog.Store.
type catalogue interface {
	Get(ctx context.Context, id string) (catalog.Entry, error)
	List(ctx context.Context, q catalog.Query) (entries []catalog.Entry, next string, err error)
	Delete(ctx context.Context, id string) error
}

// handler answers /files and what is below it.
type handler struct {
	verifier *token.Verifier
	files    store
	entries  catalogue
	links    *links
}

func newHandler(verifier *token.Verifier, files store, entries catalogue, links *links) http.Handler {
	h := &handler{verifier, files, entries, links}
	return problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		answer, err := h.route(r)
		if err != nil {
			return err
		}
		answer.ServeHTTP(w, r)
		return nil
	})
}

// route returns what answers a request.
func (h *handler) route(r *http.Request) (http.Handler, error) {
	if r.URL.Path == "/files" {
		return h.methods(r, map[string]http.Handler{http.MethodGet: h.verifier.Require(problem.HandlerFunc(h.list), token.ScopeFilesRead)})
	}
	id, below := strings.CutPrefix(r.URL.Path, "/files/")
	id, part, _ := strings.Cut(id, "/")
	if !below || id == "" {
		return nil, errNoPath
	}
	with := func(scope string, answer func(w http.ResponseWriter, r *http.Request, id string) error) http.Handler {
		return h.verifier.Require(problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error { return answer(w, r, id) }), scope)
	}
	switch {
	case r.URL.Path == "/files/"+id:
		return h.methods(r, map[string]http.Handler{
			http.MethodGet:    with(token.ScopeFilesRead, h.show),
			http.MethodDelete: with(token.ScopeFilesWrite, h.delete),
		})
	case part == "content" && r.URL.Query().Has("signature"):
		return h.methods(r, map[string]http.Handler{http.MethodGet: problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			return h.linked(w, r, id)
		})})
	case part == "content":
		return h.methods(r, map[string]http.Handler{http.MethodGet: with(token.ScopeFilesRead, h.content)})
	case part == "link":
		return h.methods(r, map[string]http.Handler{http.MethodPost: with(token.ScopeFilesRead, h.link)})
	}
	return nil, errNoPath
}

var errNoPath = problem.NotFound.With("there is nothing at this path")

// methods returns what answers the request's method; GET answers HEAD as well.
func (h *handler) methods(r *http.Request, answers map[string]http.Handler) (http.Handler, error) {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if answer, ok := answers[method]; ok {
		return answer, nil
	}
	allowed := slices.Sorted(maps.Keys(answers))
	if _, ok := answers[http.MethodGet]; ok {
		allowed = append(allowed, http.MethodHead)
	}
	return nil, problem.MethodNotAllowed.With("use %s", strings.Join(allowed, " or ")).Header("Allow", strings.Join(allowed, ", "))
}

// The status of a file: its bytes are safe; its entry is in the catalogue as well.
const (
	statusStored     = "stored"
	statusCatalogued = "catalogued"
)

// file is a file in an answer.
type file struct {
	ID           string     `json:"id"`
	Owner        string     `json:"owner"`
	Name         string     `json:"name"`
	Size         int64      `json:"size"`
	SHA256       string     `json:"sha256"`
	ContentType  string     `json:"content_type"`
	Status       string     `json:"status"`
	StoredAt     time.Time  `json:"stored_at"`
	CataloguedAt *time.Time `json:"catalogued_at,omitempty"`
}

func catalogued(e catalog.Entry) file {
	return file{e.ID, e.Owner, e.Name, e.Size, e.SHA256, e.ContentType, statusCatalogued, e.StoredAt, &e.CataloguedAt}
}

// page is the answer of list.
type page struct {
	Files []file `json:"files"`
	// Next is the cursor of the page after this one; there is none after the last.
	Next string `json:"next,omitempty"`
}

// list answers with the caller's entries, or for an admin with everybody's or one owner's.
func (h *handler) list(w http.ResponseWriter, r *http.Request) error {
	query, err := function.Query(r, "owner", "q", "cursor", "limit")
	if err != nil {
		return err
	}
	q := catalog.Query{Owner: query.Get("owner"), Name: query.Get("q"), Cursor: query.Get("cursor")}
	if limit := query.Get("limit"); limit != "" {
		// Zero would mean the default to the catalogue; here it is as wrong as any other number out of range.
		if q.Limit, err = strconv.Atoi(limit); err != nil || q.Limit < 1 || q.Limit > catalog.MaxLimit {
			return problem.BadRequest.With("the limit must be a number from 1 to %d", catalog.MaxLimit)
		}
	}
	caller := token.Caller(r.Context())
	if !caller.HasScope(token.ScopeFilesAny) {
		if q.Owner != "" && q.Owner != caller.Subject {
			return caller.Demand(token.ScopeFilesAny)
		}
		q.Owner = caller.Subject
	}
	entries, next, err := h.entries.List(r.Context(), q)
	if err != nil {
		return err
	}
	files := make([]file, len(entries))
	for i, e := range entries {
		files[i] = catalogued(e)
	}
	return problem.JSON(w, http.StatusOK, page{files, next})
}

// show answers with the catalogue's entry, or, as long as there is none, with what is known of the stored file: who
// has just handed it in must find it.
func (h *handler) show(w http.ResponseWriter, r *http.Request, id string) error {
	answer, err := h.find(r.Context(), id)
	if err != nil {
		return err
	}
	if err := mayRead(r.Context(), answer.Owner); err != nil {
		return err
	}
	return problem.JSON(w, http.StatusOK, answer)
}

func (h *handler) find(ctx context.Context, id string) (file, error) {
	e, err := h.entries.Get(ctx, id)
	if errors.Is(err, problem.NotFound) {
		f, err := h.stored(ctx, id)
		return file{f.ID, f.Owner, f.Name, f.Size, f.SHA256, f.ContentType, statusStored, f.StoredAt, nil}, err
	}
	if err != nil {
		return file{}, err
	}
	return catalogued(e), h.exists(ctx, id)
}

// stored returns a file that nobody has begun to delete, or problem.NotFound.
func (h *handler) stored(ctx context.Context, id string) (content.File, error) {
	f, err := h.files.Get(ctx, id)
	if err != nil {
		return content.File{}, err
	}
	return f, h.exists(ctx, id)
}

// exists returns problem.NotFound for a file that somebody has begun to delete.
func (h *handler) exists(ctx context.Context, id string) error {
	buried, err := h.files.Buried(ctx, id)
	if err == nil && buried {
		err = errNoFile
	}
	return err
}

var errNoFile = problem.NotFound.With("there is no such file")

// delete deletes a file. Once it is buried it is gone for everybody, and should the rest fail, sweep goes on with it. The
// entry goes before the bytes, so that nobody is shown a file that can not be had.
func (h *handler) delete(w http.ResponseWriter, r *http.Request, id string) error {
	f, err := h.stored(r.Context(), id)
	if err != nil {
		return err
	}
	if err := mayRead(r.Context(), f.Owner); err != nil {
		return err
	}
	ctx := context.WithoutCancel(r.Context()) // a client that goes away has asked for it all the same
	for _, step := range []func(context.Context, string) error{h.files.Bury, h.entries.Delete, h.files.Delete} {
		if err := step(ctx, id); err != nil {
			return err
		}
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// mayRead returns nil if the caller may see the files of owner. Somebody else's file looks like one that is not there.
func mayRead(ctx context.Context, owner string) error {
	caller := token.Caller(ctx)
	if owner == caller.Subject || caller.HasScope(token.ScopeFilesAny) {
		return nil
	}
	return errNoFile
}
