package main

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/strongroom-dev/strongroom/shared/catalog"
	"github.com/strongroom-dev/strongroom/shared/content"
	"github.com/strongroom-dev/strongroom/shared/file"
	"github.com/strongroom-dev/strongroom/shared/problem"
	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/respond"
	"github.com/strongroom-dev/strongroom/shared/routing"
	"github.com/strongroom-dev/strongroom/shared/token"
)

// store contains the methods of content.Store that the files function needs.
type store interface {
	Get(ctx context.Context, id string) (content.File, error)
	Reader(ctx context.Context, f content.File) io.ReadSeekCloser
	MarkDeleted(ctx context.Context, id string) error
	Delete(ctx context.Context, id string) error
}

// catalogStore contains the methods of catalog.Store that the files function needs.
type catalogStore interface {
	Get(ctx context.Context, id string) (catalog.Entry, error)
	List(ctx context.Context, q catalog.Query) (entries []catalog.Entry, next string, err error)
	Delete(ctx context.Context, id string) error
}

// accountCheck contains the method of accountChecker that the files function needs.
type accountCheck interface {
	Check(r *http.Request) error
}

// handler serves requests to /files and to all paths below /files.
type handler struct {
	files    store
	entries  catalogStore
	links    *links
	accounts accountCheck
}

func newHandler(verifier *token.Verifier, files store, entries catalogStore, links *links, accounts accountCheck) http.Handler {
	h := &handler{files, entries, links, accounts}
	read := func(serve problem.HandlerFunc) http.Handler { return verifier.Require(serve, token.ScopeFilesRead) }
	return routing.Table{
		"/files":              {http.MethodGet: read(h.list)},
		"/files/{id}":         {http.MethodGet: read(h.show), http.MethodDelete: verifier.Require(problem.HandlerFunc(h.delete), token.ScopeFilesWrite)},
		"/files/{id}/content": {http.MethodGet: h.linkOr(read(h.content))},
		"/files/{id}/link":    {http.MethodPost: read(h.link)},
	}.Handler()
}

// linkOr returns a handler that serves download links, which need no access token. The handler passes all other
// requests to the next handler.
func (h *handler) linkOr(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("signature") {
			problem.HandlerFunc(h.linked).ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// The values of a file's status in a response.
const (
	statusStored     = "stored"     // the file is safe in the store, but has no catalog entry yet
	statusCatalogued = "catalogued" // the file is in the store and has a catalog entry
)

// description represents a file in a JSON response.
type description struct {
	file.Info
	Status       string     `json:"status"`
	CataloguedAt *time.Time `json:"catalogued_at,omitempty"`
}

func catalogued(e catalog.Entry) description {
	return description{Info: e.Info, Status: statusCatalogued, CataloguedAt: &e.CataloguedAt}
}

// page is the JSON body of the response to a list request.
type page struct {
	Files []description `json:"files"`
	// Next is the cursor for the next page. It is empty on the last page.
	Next string `json:"next,omitempty"`
}

// list responds with a page of catalog entries. The query parameter "owner" limits the list to the files of one user.
func (h *handler) list(w http.ResponseWriter, r *http.Request) error {
	query, err := request.Query(r, "owner", "q", "sort", "cursor", "limit")
	if err != nil {
		return err
	}
	q := catalog.Query{Owner: query.Get("owner"), Name: query.Get("q"), Sort: query.Get("sort"), Cursor: query.Get("cursor")}
	if limit := query.Get("limit"); limit != "" {
		// Reject a limit of 0, because the catalog would use its default limit instead.
		if q.Limit, err = strconv.Atoi(limit); err != nil || q.Limit < 1 || q.Limit > catalog.MaxLimit {
			return problem.BadRequest.With("the limit must be a number from 1 to %d", catalog.MaxLimit)
		}
	}
	caller := token.Caller(r.Context())
	// Without the scope files:any, the caller may list only their own files.
	if !caller.HasScope(token.ScopeFilesAny) {
		if q.Owner != "" && q.Owner != caller.Subject {
			return caller.Demand(token.ScopeFilesAny)
		}
		q.Owner = caller.Subject
	}
	recordForeign(r.Context(), eventListed, "", q.Owner)
	entries, next, err := h.entries.List(r.Context(), q)
	if err != nil {
		return err
	}
	files := make([]description, len(entries))
	for i, e := range entries {
		files[i] = catalogued(e)
	}
	return respond.JSON(w, http.StatusOK, page{files, next})
}

func (h *handler) show(w http.ResponseWriter, r *http.Request) error {
	// Read the file from the store first, because a new file might not have a catalog entry yet, and a deleted file
	// might still have one.
	f, err := h.readable(r)
	if err != nil {
		return err
	}
	recordForeign(r.Context(), eventRead, f.ID, f.Owner)
	answer := description{Info: f.Info, Status: statusStored}
	e, err := h.entries.Get(r.Context(), f.ID)
	if err == nil {
		answer = catalogued(e)
	} else if !errors.Is(err, problem.NotFound) {
		return err
	}
	return respond.JSON(w, http.StatusOK, answer)
}

// readable returns the stored file whose ID is in the path of r. It returns an error if the caller is not allowed to
// read the file (see mayRead).
func (h *handler) readable(r *http.Request) (content.File, error) {
	f, err := h.files.Get(r.Context(), r.PathValue("id"))
	if err != nil {
		return content.File{}, err
	}
	return f, mayRead(r.Context(), f.ID, f.Owner)
}

// delete handles DELETE /files/{id}. If an error occurs after the file is marked deleted, the sweep function completes
// the deletion.
func (h *handler) delete(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	f, err := h.files.Get(r.Context(), id)
	owner := f.Owner
	if errors.Is(err, problem.NotFound) {
		// An interrupted deletion can leave a catalog entry without a file. The client can delete this entry.
		var e catalog.Entry
		e, err = h.entries.Get(r.Context(), id)
		owner = e.Owner
	}
	if err != nil {
		return err
	}
	if err := mayRead(r.Context(), id, owner); err != nil {
		return err
	}
	ctx := context.WithoutCancel(r.Context()) // complete the deletion even if the client disconnects
	// Mark the file deleted first, so that all requests for it fail. Delete the content last, because the catalog must
	// not list a file without content.
	if err := h.files.MarkDeleted(ctx, id); err != nil {
		return err
	}
	record(ctx, eventDeleted, id, owner)
	for _, step := range []func(context.Context, string) error{h.entries.Delete, h.files.Delete} {
		if err := step(ctx, id); err != nil {
			return err
		}
	}
	return respond.NoContent(w)
}

var errNoFile = problem.NotFound.With("there is no such file")

// mayRead returns errNoFile if the caller is not allowed to access the file with the given ID and owner.
func mayRead(ctx context.Context, id, owner string) error {
	caller := token.Caller(ctx)
	if owner == caller.Subject || caller.HasScope(token.ScopeFilesAny) {
		return nil
	}
	record(ctx, eventRefused, id, owner)
	// Return the same error as for a file that does not exist, so that the caller cannot find out which files of other
	// users exist.
	return errNoFile
}
