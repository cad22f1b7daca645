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
	IsDeleted(ctx context.Context, id string) (bool, error)
	Delete(ctx context.Context, id string) error
}

// catalogStore contains the methods of catalog.Store that the files function needs.
type catalogStore interface {
	Get(ctx context.Context, id string) (catalog.Entry, error)
	List(ctx context.Context, q catalog.Query) (entries []catalog.Entry, next string, err error)
	Delete(ctx context.Context, id string) error
}

// handler serves requests to /files and to all paths below /files.
type handler struct {
	files   store
	entries catalogStore
	links   *links
}

func newHandler(verifier *token.Verifier, files store, entries catalogStore, links *links) http.Handler {
	h := &handler{files, entries, links}
	read := func(serve problem.HandlerFunc) http.Handler { return verifier.Require(serve, token.ScopeFilesRead) }
	return routing.Table{
		"/files":              {http.MethodGet: read(h.list)},
		"/files/{id}":         {http.MethodGet: read(h.show), http.MethodDelete: verifier.Require(problem.HandlerFunc(h.delete), token.ScopeFilesWrite)},
		"/files/{id}/content": {http.MethodGet: h.linkOr(read(h.content))},
		"/files/{id}/link":    {http.MethodPost: read(h.link)},
	}.Handler()
}

// linkOr returns a handler that serves requests whose URL is a download link. These requests need no access token. The
// handler passes all other requests to next.
func (h *handler) linkOr(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("signature") {
			problem.HandlerFunc(h.linked).ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// statusStored and statusCatalogued are the possible values of a file's status. The content of a stored file is safe in
// the store, but the file has no catalog entry yet. A catalogued file has both its content and a catalog entry.
const (
	statusStored     = "stored"
	statusCatalogued = "catalogued"
)

// description is the JSON description of a file in a response.
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

// list responds with a page of catalog entries. A caller with the scope files:any gets the entries of all users or, if
// the query has the parameter owner, only the entries of that user. Any other caller gets only their own entries, or an
// error if the query names another user as the owner.
func (h *handler) list(w http.ResponseWriter, r *http.Request) error {
	query, err := request.Query(r, "owner", "q", "cursor", "limit")
	if err != nil {
		return err
	}
	q := catalog.Query{Owner: query.Get("owner"), Name: query.Get("q"), Cursor: query.Get("cursor")}
	if limit := query.Get("limit"); limit != "" {
		// Reject a limit of 0, because the catalog would treat it as a limit that is not set and use its default
		// limit.
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
	files := make([]description, len(entries))
	for i, e := range entries {
		files[i] = catalogued(e)
	}
	return respond.JSON(w, http.StatusOK, page{files, next})
}

// show responds with the description of a file. It reads the catalog entry or, if the file has no catalog entry yet,
// the stored file, so that a user can get the description immediately after the upload.
func (h *handler) show(w http.ResponseWriter, r *http.Request) error {
	id := r.PathValue("id")
	answer, err := h.find(r.Context(), id)
	if err != nil {
		return err
	}
	if err := mayRead(r.Context(), answer.Owner); err != nil {
		return err
	}
	return respond.JSON(w, http.StatusOK, answer)
}

// find returns the description of the file with the given ID. It reads the catalog first and, if the file has no
// catalog entry, the store. If the file does not exist or is marked deleted, the error is problem.NotFound.
func (h *handler) find(ctx context.Context, id string) (description, error) {
	e, err := h.entries.Get(ctx, id)
	if errors.Is(err, problem.NotFound) {
		f, err := h.stored(ctx, id)
		return description{Info: f.Info, Status: statusStored}, err
	}
	if err != nil {
		return description{}, err
	}
	return catalogued(e), h.exists(ctx, id)
}

// stored returns the file with the given ID from the store. If the file does not exist or is marked deleted, the error
// is problem.NotFound.
func (h *handler) stored(ctx context.Context, id string) (content.File, error) {
	f, err := h.files.Get(ctx, id)
	if err != nil {
		return content.File{}, err
	}
	return f, h.exists(ctx, id)
}

// readable returns the stored file that the path of r names, if the caller is allowed to access the file (see mayRead).
func (h *handler) readable(r *http.Request) (content.File, error) {
	f, err := h.stored(r.Context(), r.PathValue("id"))
	if err != nil {
		return content.File{}, err
	}
	return f, mayRead(r.Context(), f.Owner)
}

// exists returns problem.NotFound if the file with the given ID is marked deleted. The caller must already have found
// the file in the catalog or in the store, because exists does not look for the file there.
func (h *handler) exists(ctx context.Context, id string) error {
	deleted, err := h.files.IsDeleted(ctx, id)
	if err == nil && deleted {
		err = errNoFile
	}
	return err
}

var errNoFile = problem.NotFound.With("there is no such file")

// delete deletes a file in three steps. It marks the file deleted, removes the catalog entry, and deletes the content.
// After the first step, all requests for the file fail. If a later step fails, the sweep function completes the
// deletion. delete removes the catalog entry before the content, because the catalog must not list a file that cannot
// be downloaded.
func (h *handler) delete(w http.ResponseWriter, r *http.Request) error {
	f, err := h.readable(r)
	if err != nil {
		return err
	}
	ctx := context.WithoutCancel(r.Context()) // complete the deletion even if the client disconnects
	for _, step := range []func(context.Context, string) error{h.files.MarkDeleted, h.entries.Delete, h.files.Delete} {
		if err := step(ctx, f.ID); err != nil {
			return err
		}
	}
	return respond.NoContent(w)
}

// mayRead returns nil if the caller is allowed to access a file whose owner has the given user ID. Otherwise, mayRead
// returns the same error as for a file that does not exist, so that the caller cannot find out which files of other
// users exist.
func mayRead(ctx context.Context, owner string) error {
	caller := token.Caller(ctx)
	if owner == caller.Subject || caller.HasScope(token.ScopeFilesAny) {
		return nil
	}
	return errNoFile
}
