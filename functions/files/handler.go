package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/token"
)

// store keeps the bytes of files; see content.Store.
type store interface {
	Get(ctx context.Context, id string) (content.File, error)
	Reader(ctx context.Context, f content.File) io.ReadSeekCloser
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
}

// handler answers /files and what is below it.
type handler struct {
	files   store
	entries catalogue
}

func newHandler(verifier *token.Verifier, files store, entries catalogue) http.Handler {
	h := &handler{files, entries}
	return problem.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		answer, err := h.route(r.URL.Path)
		if err != nil {
			return err
		}
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			return problem.MethodNotAllowed.With("use GET").Header("Allow", "GET, HEAD")
		}
		verifier.Require(answer, token.ScopeFilesRead).ServeHTTP(w, r)
		return nil
	})
}

// route returns what answers at path.
func (h *handler) route(path string) (problem.HandlerFunc, error) {
	if path == "/files" {
		return h.list, nil
	}
	id, below := strings.CutPrefix(path, "/files/")
	id, content := strings.CutSuffix(id, "/content")
	switch {
	case !below || id == "" || strings.Contains(id, "/"):
		return nil, problem.NotFound.With("there is nothing at this path")
	case content:
		return func(w http.ResponseWriter, r *http.Request) error { return h.content(w, r, id) }, nil
	}
	return func(w http.ResponseWriter, r *http.Request) error { return h.show(w, r, id) }, nil
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
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return problem.BadRequest.With("the query string is not well-formed")
	}
	q := catalog.Query{Owner: query.Get("owner"), Cursor: query.Get("cursor")}
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
	if err == nil {
		return catalogued(e), nil
	}
	if !errors.Is(err, problem.NotFound) {
		return file{}, err
	}
	f, err := h.files.Get(ctx, id)
	if err != nil {
		return file{}, err
	}
	return file{f.ID, f.Owner, f.Name, f.Size, f.SHA256, f.ContentType, statusStored, f.StoredAt, nil}, nil
}

// mayRead returns nil if the caller may see the files of owner. Somebody else's file looks like one that is not there.
func mayRead(ctx context.Context, owner string) error {
	caller := token.Caller(ctx)
	if owner == caller.Subject || caller.HasScope(token.ScopeFilesAny) {
		return nil
	}
	return problem.NotFound.With("there is no such file")
}
