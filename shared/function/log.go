package function

import (
	"context"
	"io"
	"log/slog"

	"github.com/strongroom-dev/strongroom/shared/request"
	"github.com/strongroom-dev/strongroom/shared/telemetry"
)

// newLogger returns a logger that writes JSON lines to w. Each line contains the Knative Service and revision, the
// request IDs and the trace ID, unless they are empty.
func newLogger(w io.Writer, base settings) *slog.Logger {
	var handler slog.Handler = slog.NewJSONHandler(w, &slog.HandlerOptions{Level: base.LogLevel})
	handler = requestHandler{handler}
	logger := slog.New(handler)
	if base.Service != "" {
		logger = logger.With("service", base.Service)
	}
	if base.Revision != "" {
		logger = logger.With("revision", base.Revision)
	}
	return logger
}

// requestHandler is a slog.Handler that adds the request IDs and the trace ID from the context to each log record.
type requestHandler struct{ slog.Handler }

func (h requestHandler) Handle(ctx context.Context, r slog.Record) error {
	origin := request.OriginOf(ctx)
	if origin.ID != "" {
		r.AddAttrs(slog.String("request_id", origin.ID))
	}
	if origin.ClientID != "" {
		r.AddAttrs(slog.String("client_request_id", origin.ClientID))
	}
	if id := telemetry.TraceID(ctx); id != "" {
		r.AddAttrs(slog.String("trace_id", id))
	}
	return h.Handler.Handle(ctx, r)
}

func (h requestHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return requestHandler{h.Handler.WithAttrs(attrs)}
}

func (h requestHandler) WithGroup(name string) slog.Handler {
	return requestHandler{h.Handler.WithGroup(name)}
}
